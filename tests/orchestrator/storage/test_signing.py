"""A URL of the local folder proves itself, for one method, until it expires."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator import clock
from orchestrator.errors import InvalidRequest, SignatureInvalid, Unavailable
from orchestrator.settings import settings
from orchestrator.storage import blobs, signing

KEY = "sha256/ab/abcdef"


def test_a_signed_url_verifies_for_its_method_and_names_its_key() -> None:
    for method in ("GET", "HEAD", "PUT"):
        url = blobs().sign(KEY, method)
        assert urlsplit(url).path == f"/blobs/{KEY}"
        assert set(parse_qs(urlsplit(url).query)) == {"method", "expires", "signature"}
        assert blobs().verify(url, method) == KEY
        assert blobs().verify(f"https://example.org{url}", method) == KEY


def test_a_url_for_reading_does_not_allow_writing() -> None:
    with pytest.raises(SignatureInvalid, match="allows GET, not PUT"):
        blobs().verify(blobs().sign(KEY), "PUT")


def test_a_url_stops_working_when_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    url = blobs().sign(KEY, expires=timedelta(minutes=1))
    later = clock.now() + timedelta(seconds=62)
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(SignatureInvalid, match="expired"):
        blobs().verify(url, "GET")


@pytest.mark.parametrize("lifetime", [timedelta(), timedelta(seconds=-1), timedelta(days=8)])
def test_a_lifetime_without_sense_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(InvalidRequest, match="7 days"):
        blobs().sign(KEY, expires=lifetime)


def test_another_method_cannot_be_signed() -> None:
    with pytest.raises(InvalidRequest, match="GET, HEAD, PUT"):
        blobs().sign(KEY, "DELETE")


def test_another_key_or_a_later_expiry_breaks_the_signature() -> None:
    url = blobs().sign(KEY)
    until = parse_qs(urlsplit(url).query)["expires"][0]
    for forged in (url.replace("abcdef", "abcdee"), url.replace(until, str(int(until) + 1))):
        with pytest.raises(SignatureInvalid, match="does not fit"):
            blobs().verify(forged, "GET")


@pytest.mark.parametrize(
    "forge",
    [
        lambda url: url.replace("/blobs/", "/other/"),
        lambda url: url.split("?")[0],
        lambda url: url + "&expires=9999999999",
        lambda url: url + "&more=1",
        lambda url: url.replace("signature=", "signature=ü"),
        lambda url: url.replace("expires=", "expires=-"),
        lambda url: url.replace("expires=", "expires=٣"),
        lambda url: "",
        lambda url: "http://[",
    ],
)
def test_a_malformed_url_is_invalid_and_nothing_worse(forge: object) -> None:
    assert callable(forge)
    with pytest.raises(SignatureInvalid):
        blobs().verify(forge(blobs().sign(KEY)), "GET")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_no_text_is_taken_for_a_signed_url(home: Path, text: str) -> None:
    for url in (text, f"/blobs/{text}", f"/blobs/{KEY}?method=GET&expires=9999999999&signature={text}"):
        with pytest.raises(SignatureInvalid):
            blobs().verify(url, "GET")


def test_the_key_of_the_settings_is_used_and_no_file_made(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SIGNING_KEY", "a secret of the operator")
    settings.cache_clear()
    url = blobs().sign(KEY)
    assert not (home / signing.KEY_FILE).exists()
    monkeypatch.setenv("ORCHESTRATOR_SIGNING_KEY", "another")
    settings.cache_clear()
    with pytest.raises(SignatureInvalid):
        blobs().verify(url, "GET")


def test_the_key_file_is_made_once_by_many_and_read_by_its_owner_alone(home: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        urls = list(pool.map(lambda _: blobs().sign(KEY, expires=timedelta(hours=1)), range(64)))
    for url in urls:
        assert blobs().verify(url, "GET") == KEY
    assert stat.S_IMODE((home / signing.KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [signing.KEY_FILE]


def test_an_empty_key_file_signs_nothing(home: Path) -> None:
    home.mkdir(parents=True)
    (home / signing.KEY_FILE).touch()
    with pytest.raises(Unavailable, match="remove it"):
        blobs().sign(KEY)

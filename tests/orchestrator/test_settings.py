"""Settings: variables before the home folder's file before defaults; secrets stay secret."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.settings import ENV_FILE, settings


@pytest.fixture(autouse=True)
def unread(home: Path) -> None:
    home.mkdir()
    settings.cache_clear()


def test_without_any_setting_everything_is_in_the_home_folder(home: Path) -> None:
    assert settings().sqlalchemy_url == f"sqlite:///{home / 'orchestrator.db'}"
    assert settings().storage_url == (home / "blobs").as_uri()


def test_the_home_folder_is_below_the_current_one_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_HOME")
    monkeypatch.chdir(tmp_path)
    assert settings().home == tmp_path / ".orchestrator"


def test_a_variable_counts_more_than_the_file_and_the_file_more_than_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ENV_FILE).write_text("ORCHESTRATOR_DISPATCH_WINDOW=7\nORCHESTRATOR_LEASE_SECONDS=12\n")
    monkeypatch.setenv("ORCHESTRATOR_LEASE_SECONDS", "3")
    assert (settings().dispatch_window, settings().lease) == (7, timedelta(seconds=3))
    assert settings().republish_seconds == 60


def test_settings_are_read_once_until_they_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    monkeypatch.setenv("ORCHESTRATOR_DISPATCH_WINDOW", "9")
    assert settings() is before
    settings.cache_clear()
    assert settings().dispatch_window == 9


@pytest.mark.parametrize(
    "name, value",
    [
        ("LEASE_SECONDS", "0"),
        ("DISPATCH_WINDOW", "0"),
        ("DATABASE_POOL_SIZE", "0"),
        ("RECONCILE_INTERVAL", "-1"),
        ("LOG_FORMAT", "xml"),
        ("BROKER_URL", ""),
    ],
)
def test_a_value_that_could_not_work_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(f"ORCHESTRATOR_{name}", value)
        with pytest.raises(ValidationError, match=name.lower()):
            settings()


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "S3_SECRET_ACCESS_KEY", "SIGNING_KEY"):
        monkeypatch.setenv(f"ORCHESTRATOR_{name}", "redis://:canary@host/0")
    assert "canary" not in repr(settings())
    assert "canary" not in settings().model_dump_json()

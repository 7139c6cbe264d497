"""Every blob store does the same: the local folder, and a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from moto.server import ThreadedMotoServer

from orchestrator.errors import BlobNotFound, InvalidRequest, SignatureInvalid, Unavailable
from orchestrator.settings import settings
from orchestrator.storage import Blobs, blobs, content_key, get_signed, local, put_signed
from orchestrator.storage.local import LocalBlobs


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")):
        pass
    yield endpoint
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "bucket":
        monkeypatch.setenv(
            "ORCHESTRATOR_BLOB_URL", f"s3://bucket/{hashlib.sha256(request.node.name.encode()).hexdigest()}"
        )
        use_bucket(request.getfixturevalue("s3_endpoint"), monkeypatch)
    settings.cache_clear()
    return blobs()


def use_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_S3_ENDPOINT", endpoint)
    monkeypatch.setenv("ORCHESTRATOR_S3_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ORCHESTRATOR_S3_SECRET_ACCESS_KEY", "secret")


def test_what_was_put_is_read_back_in_every_way(store: Blobs) -> None:
    store.put("a/b.bin", b"content")
    assert store.get("a/b.bin") == b"content"
    assert asyncio.run(store.get_async("a/b.bin")) == b"content"
    assert b"".join(store.stream("a/b.bin")) == b"content"
    assert store.size("a/b.bin") == 7
    assert store.exists("a/b.bin")


def test_a_second_put_replaces_the_first(store: Blobs) -> None:
    store.put("key", b"first")
    store.put("key", b"second")
    assert store.get("key") == b"second"


def test_content_is_stored_once_under_its_digest(store: Blobs) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    assert store.put_content(b"content") == f"sha256/{digest[:2]}/{digest}"
    store.put_content(b"content")
    assert [(info.key, info.size) for info in store.list()] == [(content_key(digest), 7)]


def test_rooms_with_a_folder_each_do_not_share_blobs(store: Blobs) -> None:
    key = store.put_content(b"content", under="datums")
    store.delete(key)
    assert key.startswith("datums/sha256/")
    assert not store.exists(key)


def test_a_stream_larger_than_a_part_is_one_blob(store: Blobs) -> None:
    chunks = [bytes([number]) * (1 << 20) for number in range(12)]
    store.put_stream("large", iter(chunks))
    assert store.size("large") == 12 << 20
    assert b"".join(store.stream("large")) == b"".join(chunks)


def test_a_stream_that_fails_stores_nothing(store: Blobs) -> None:
    def failing() -> Iterator[bytes]:
        yield b"x" * (6 << 20)
        raise RuntimeError("the source broke off")

    with pytest.raises(Exception, match=r"broke off|store failed"):
        store.put_stream("large", failing())
    assert not store.exists("large")
    assert list(store.list()) == []


def test_many_blobs_come_in_the_order_they_were_asked_for(store: Blobs) -> None:
    store.put_missing({f"k/{number}": str(number).encode() for number in range(100)})
    keys = [f"k/{number}" for number in reversed(range(100))]
    assert asyncio.run(store.get_many(keys)) == [str(number).encode() for number in reversed(range(100))]


@pytest.mark.parametrize("slow_from", [0, 3, 50, 200])
def test_no_event_loop_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_from: int) -> None:
    store = LocalBlobs(tmp_path)
    store.put_missing({f"k/{number}": str(number).encode() for number in range(200)})
    readers = []
    clock = itertools.count()

    def read(path: str) -> bytes:
        readers.append(threading.current_thread())
        return Path(path).read_bytes()

    def now() -> float:
        return next(clock) * 1e-9 + (1.0 if len(readers) > slow_from else 0.0)

    monkeypatch.setattr(local, "_read", read)
    monkeypatch.setattr(time, "perf_counter", now)
    keys = [f"k/{number}" for number in range(200)]
    assert asyncio.run(store.get_many(keys)) == [str(number).encode() for number in range(200)]
    on_loop = readers.count(threading.main_thread())
    assert slow_from < on_loop + (slow_from == 200) <= slow_from + local.PIECE, "and then a thread reads the rest"


def test_a_blob_cut_short_is_put_again(store: Blobs) -> None:
    store.put("key", b"con")
    store.put_missing({"key": b"content"})
    assert store.get("key") == b"content"


def test_what_is_not_there_is_said_to_be_missing(store: Blobs) -> None:
    store.put("folder/blob", b"")
    for key in ("nothing", "folder", "folder/blob/below"):
        assert not store.exists(key)
        with pytest.raises(BlobNotFound, match=key):
            store.get(key)
        with pytest.raises(BlobNotFound, match=key):
            store.stream(key)
        with pytest.raises(BlobNotFound, match=key):
            store.size(key)
        with pytest.raises(BlobNotFound, match=key):
            asyncio.run(store.get_async(key))


def test_a_missing_blob_among_many_is_named(store: Blobs) -> None:
    store.put("there", b"")
    with pytest.raises((BlobNotFound, ExceptionGroup)) as caught:
        asyncio.run(store.get_many(["there", "missing"]))
    assert isinstance(caught.value, BlobNotFound), "a caller wants the error itself, not a group"


def test_deleting_is_idempotent(store: Blobs) -> None:
    store.put_missing({"a": b"1", "b": b"2", "c": b"3"})
    store.delete_many(["a", "b", "never-there"])
    store.delete("a")
    assert [info.key for info in store.list()] == ["c"]


def test_a_listing_is_of_one_folder(store: Blobs) -> None:
    store.put_missing({"one/a": b"", "one/deep/b": b"12", "oneself": b"", "two/c": b""})
    assert sorted(store.list("one")) == [("one/a", 0), ("one/deep/b", 2)]
    assert list(store.list("three")) == []
    assert len(list(store.list())) == 4


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".partial/x", "a/.hidden", "a\\b", "a\0b", "ä", "a b", "a%2e",
     "a#1", "a\n", "x" * 1025],
)  # fmt: skip
def test_a_key_that_could_mean_something_else_is_refused(store: Blobs, key: str) -> None:
    for act in (store.get, store.size, store.delete, store.stream, store.sign, lambda key: store.put(key, b"")):
        with pytest.raises(InvalidRequest):
            act(key)


def test_a_signed_url_of_a_bucket_works_until_it_is_altered(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", "s3://bucket/signed")
    use_bucket(s3_endpoint, monkeypatch)
    settings.cache_clear()
    blobs().put("key", b"content")
    url = blobs().sign("key", expires=timedelta(minutes=5))
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"content"
    assert "X-Amz-Expires=300" in urlsplit(url).query
    with pytest.raises(InvalidRequest):
        blobs().sign("key", "DELETE")
    with pytest.raises(SignatureInvalid):
        blobs().verify(url, "GET")


def test_a_bucket_that_does_not_exist_is_unavailable_and_no_secret_is_told(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", "s3://no-such-bucket")
    use_bucket(s3_endpoint, monkeypatch)
    settings.cache_clear()
    with pytest.raises((Unavailable, BlobNotFound)) as caught:
        blobs().put("key", b"")
    assert "secret" not in str(caught.value)


class Breaking(BaseHTTPRequestHandler):
    """A bucket with one blob, of which no answer brings more than a quarter of a mebibyte before it breaks off."""

    blob = bytes(range(256)) * 12_288
    starts: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert wanted is not None
        start = int(wanted[1])
        self.starts.append(start)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(self.blob) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(self.blob) - 1}/{len(self.blob)}")
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(self.blob[start : start + (1 << 18)])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_blob_of_a_bucket_is_read_to_its_end_however_often_answers_break_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", "s3://bucket")
        use_bucket(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        settings.cache_clear()
        assert b"".join(blobs().stream("key")) == Breaking.blob
        assert b"".join(blobs().stream("key", start=5)) == Breaking.blob[5:]
        server.shutdown()


@pytest.mark.parametrize("url", ["ftp://host/folder", "file://", "file://elsewhere/folder", "folder", "s3:///prefix"])
def test_a_url_that_names_no_store_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", url)
    settings.cache_clear()
    with pytest.raises(InvalidRequest, match="s3://bucket/prefix"):
        blobs()


def test_a_folder_with_unusual_characters_in_its_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b#ü%20"
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", folder.as_uri())
    settings.cache_clear()
    blobs().put("key", b"content")
    assert (folder / "key").read_bytes() == b"content"


def test_the_store_is_opened_once_a_process_and_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = blobs()
    assert blobs() is first
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", tmp_path.as_uri())
    settings.cache_clear()
    assert blobs() is not first


def test_half_written_files_are_hidden_and_swept_when_old(home: Path) -> None:
    blobs().put("key", b"content")
    partial = home / "blobs" / ".partial"
    for name in ("old", "new"):
        (partial / name).write_bytes(b"half")
    os.utime(partial / "old", (0, 0))
    assert [info.key for info in blobs().list()] == ["key"]
    assert blobs().remove_partial() == 1
    assert [path.name for path in partial.iterdir()] == ["new"]


def test_a_blob_folder_that_cannot_be_written_is_unavailable(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "blobs").write_text("a file where the folder should be")
    with pytest.raises((Unavailable, BlobNotFound)):
        blobs().put("key", b"")


def test_a_blob_folder_that_is_not_mounted_is_unavailable_and_its_blobs_are_not_called_missing(home: Path) -> None:
    blobs().put("key", b"content")
    (home / "blobs").rename(home / "elsewhere")
    for there in (False, True):
        if there:
            (home / "blobs").mkdir()  # a mount point
        for read in (blobs().get, blobs().size, blobs().stream):
            with pytest.raises(Unavailable, match="mount it"):
                read("key")
    assert not blobs().exists("key")
    (home / "blobs").rmdir()
    (home / "elsewhere").rename(home / "blobs")
    assert blobs().get("key") == b"content"
    with pytest.raises(BlobNotFound):
        blobs().get("nothing")


def test_who_was_given_a_signed_url_uploads_and_downloads_with_it(store: Blobs) -> None:
    put_signed(store.sign("a/b.bin", "PUT"), b"content")
    assert store.get("a/b.bin") == b"content"
    assert get_signed(store.sign("a/b.bin")) == b"content"


def test_a_signed_url_of_nothing_finds_nothing(store: Blobs) -> None:
    store.put("other", b"")
    with pytest.raises(BlobNotFound):
        get_signed(store.sign("missing"))


def test_a_store_that_does_not_answer_is_unavailable_and_its_url_stays_secret() -> None:
    with pytest.raises(Unavailable) as caught:
        put_signed("http://127.0.0.1:1/bucket/key?signature=secret", b"")
    assert "secret" not in str(caught.value)

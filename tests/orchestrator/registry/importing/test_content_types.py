"""The first bytes tell what a file is, then its name, then whether it reads as text."""

from __future__ import annotations

import pytest

from orchestrator.registry.importing.content_types import HEAD, content_type


@pytest.mark.parametrize(
    "path, head, kind",
    [
        ("a.jpg", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("a.dat", b"\x93NUMPY\x01\x00", "application/x-npy"),
        ("folder.png/a.json", b"[1]", "application/json"),
        ("a.txt", b"{", "text/plain"),
        ("a", b' {"a": 1}', "application/json"),
        ("a", "grüße".encode(), "text/plain"),
        ("a", b"x" * (HEAD - 1) + "ü".encode()[:1], "text/plain"),
        ("a", b"caf\xe9", "application/octet-stream"),
        ("a", b"\0\1", "application/octet-stream"),
        ("a", b"", "application/octet-stream"),
    ],
)
def test_a_file_has_the_type_of_its_bytes_else_of_its_name(path: str, head: bytes, kind: str) -> None:
    assert content_type(path, head) == kind

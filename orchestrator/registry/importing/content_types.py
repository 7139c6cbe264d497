"""What kind of file a datum is, by its first bytes and its name."""

from __future__ import annotations

from mimetypes import MimeTypes

#: Bytes of a file that decide.
HEAD = 512

UNKNOWN = "application/octet-stream"
NPY = "application/x-npy"

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x93NUMPY", NPY),
)
#: The library's own table: the machine's would make a snapshot depend on where it was imported.
_NAMES = MimeTypes(filenames=())
_NAMES.add_type(NPY, ".npy")


def content_type(path: str, head: bytes) -> str:
    """The media type of a file that begins with `head`; the bytes win over the name."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    by_name, _ = _NAMES.guess_type(path.rpartition("/")[2])
    return by_name or _by_text(head)


def _by_text(head: bytes) -> str:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # A character cut in half at the end of the head is no proof against text.
        if len(head) < HEAD or error.start < len(head) - 3:
            return UNKNOWN
        text = head[: error.start].decode()
    if not text or any(ord(character) < 32 and character not in "\t\n\r\f" for character in text):
        return UNKNOWN
    return "application/json" if text.lstrip()[:1] in ("{", "[") else "text/plain"

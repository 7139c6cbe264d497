"""The paths that datums may have: relative, plain, and the same on every system."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from orchestrator.errors import BadArchive

#: Bytes in UTF-8; a database indexes paths, and PostgreSQL bounds what an index can hold.
LONGEST_PATH = 1024

#: Folders that name a split.
SPLIT_FOLDERS = frozenset({"train", "test", "val", "validation"})
DEFAULT_SPLIT = "default"

#: Files at the root that describe the others and are no datums.
ANNOTATIONS_LINES = "annotations.jsonl"
ANNOTATIONS_LIST = "annotations.json"
METADATA_LINES = "metadata.jsonl"
CONTROL_FILES = frozenset({ANNOTATIONS_LINES, ANNOTATIONS_LIST, METADATA_LINES})
#: Files at the root that an export adds, which say nothing that a snapshot keeps.
IGNORED_FILES = frozenset({"inferences.jsonl", "manifest.jsonl"})

_DRIVE = re.compile(r"[A-Za-z]:")
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def check_path(path: str) -> str:
    """Return `path` without a leading `./`, when no system could read it as something else.

    Raises:
        BadArchive: it is empty, absolute, climbs, has a drive, a backslash or a control character,
            is too long, or is no valid Unicode.
    """
    reason = _fault(path)
    if reason:
        shown = path.encode("utf-8", "backslashreplace").decode()[:200]
        raise BadArchive(f"path {shown!r} {reason}", member=shown.replace("\0", "\\0"))
    return path.removeprefix("./")


def _fault(path: str) -> str | None:
    parts = path.removeprefix("./").split("/")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    faults = {
        "has a control character": any(ord(character) < 32 or ord(character) == 127 for character in path),
        "is absolute": path.startswith("/"),
        "has a backslash": "\\" in path,
        "names a drive": _DRIVE.match(parts[0]),
        "climbs out of its folder": ".." in parts,
        "has an empty step": "" in parts or "." in parts,
        f"is longer than {LONGEST_PATH} bytes": length > LONGEST_PATH,
    }
    return next((reason for reason, found in faults.items() if found), None)


def is_root(path: str) -> bool:
    """Whether an archive lists its own top folder here, as `tar -C folder .` does."""
    return path in (".", "./")


def split_of(path: str) -> str:
    """The split that the first folder of `path` names, else `default`."""
    first, slash, _ = path.partition("/")
    return first if slash and first in SPLIT_FOLDERS else DEFAULT_SPLIT


def is_litter(path: str) -> bool:
    """Whether a file manager left this file, so that it is no datum."""
    pure = PurePosixPath(path)
    return pure.parts[0] == "__MACOSX" or pure.name in _LITTER

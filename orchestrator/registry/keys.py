"""Where the blobs of datums lie."""

from __future__ import annotations

from orchestrator.storage import content_key

#: Blobs of datums have a folder of their own: what an import deletes, no other room may rely on.
FOLDER = "datums"


def datum_key(sha256: str) -> str:
    """The key of every datum with this content, of which there is one blob.

    Raises:
        InvalidRequest: `sha256` is not 64 lower-case hex digits.
    """
    return content_key(sha256, FOLDER)

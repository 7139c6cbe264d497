"""Whether the blob store is the one that the datums' blobs were put into: a folder that is not mounted looks new."""

from __future__ import annotations

from sqlalchemy import select

from orchestrator.database import reading
from orchestrator.errors import Unavailable
from orchestrator.registry.tables import DatumRow
from orchestrator.settings import settings
from orchestrator.storage import blobs


def require_store() -> None:
    """Refuse to write into an empty folder what would be hidden as soon as the blobs' own is mounted there again.

    Raises:
        Unavailable: nothing was ever stored there, and yet there are datums.
    """
    if blobs().was_used():
        return
    with reading() as session:
        if session.scalar(select(DatumRow.id).limit(1)) is not None:
            raise Unavailable(
                f"{settings().storage_url} is away, or empty, and there are datums whose blobs are elsewhere: "
                "mount it, or set ORCHESTRATOR_BLOB_URL"
            )

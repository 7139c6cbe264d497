"""Sources to import, good and bad, made in a line each."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from orchestrator.database import Base, reading
from orchestrator.registry.tables import DatumRow, ImportBlobRow, SnapshotRow, SnapshotSplitRow
from orchestrator.storage import blobs

Files = Mapping[str, bytes]

TABLES: tuple[type[Base], ...] = (DatumRow, ImportBlobRow, SnapshotRow, SnapshotSplitRow)


def lines(*records: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write(folder: Path, kind: str, files: Files) -> Path:
    """A source of `kind`: `folder`, `zip`, `tar` or `tar.gz`."""
    if kind == "folder":
        root = folder / "source"
        root.mkdir()
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return root
    target = folder / f"source.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return target
    with tarfile.open(target, "w:gz" if kind == "tar.gz" else "w") as archive:
        for path, data in files.items():
            add_to_tar(archive, path, data)
    return target


def add_to_tar(archive: tarfile.TarFile, path: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
    header = tarfile.TarInfo(path)
    header.size, header.type = len(data), kind
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        header.linkname = "/etc/passwd"
    archive.addfile(header, io.BytesIO(data))


def what_is_kept() -> dict[str, int]:
    """How many rows each table of snapshots has, and how many blobs there are."""
    with reading() as session:
        rows = {table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES}
    return {**rows, "blobs": sum(1 for _ in blobs().list())}


NOTHING = {"datums": 0, "import_blobs": 0, "snapshots": 0, "snapshot_splits": 0, "blobs": 0}

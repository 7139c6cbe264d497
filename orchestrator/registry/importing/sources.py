"""Opens a folder or an archive by what it is called."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import BadArchive
from orchestrator.registry.importing.folders import Folder
from orchestrator.registry.importing.limits import Limits
from orchestrator.registry.importing.members import Source
from orchestrator.registry.importing.tars import Tar
from orchestrator.registry.importing.zips import Zip

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")


def open_source(path: Path, limits: Limits) -> Source:
    """The source at `path`.

    Raises:
        BadArchive: there is nothing, or nothing that can be imported.
    """
    if path.is_dir():
        return Folder(path, limits)
    if not path.is_file():
        raise BadArchive(f"{path}: no such file or folder")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise BadArchive(f"{path}: give a folder or a file that ends in {', '.join(SUFFIXES)}")
    return Zip(path, limits) if name.endswith(".zip") else Tar(path, limits)


def stem(path: Path) -> str:
    """The name of a source without what tells its kind."""
    name = path.resolve().name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name

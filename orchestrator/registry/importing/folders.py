"""A folder as a source."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from orchestrator.errors import BadArchive
from orchestrator.registry.importing.limits import Limits, Meter
from orchestrator.registry.importing.members import Member, read_chunks
from orchestrator.registry.importing.paths import check_path, is_litter

#: Folders inside folders; each open one costs a file descriptor.
DEEPEST = 100


class Folder:
    """The files below `root`, in the order in which the filesystem lists them."""

    total = None
    unordered = True

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self.meter = Meter(limits)

    def members(self) -> Iterator[Member]:
        """The files; links and devices are refused, not followed."""
        for entry in self._entries():
            path = check_path(Path(entry.path).relative_to(self.root).as_posix())
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.meter.admit(path, 0)
            elif not stat.S_ISREG(info.st_mode):
                raise BadArchive(f"{path} is a link or a device: only plain files are imported", member=path)
            elif not is_litter(path):
                self.meter.admit(path, info.st_size)
                yield Member(path, info.st_size, self.meter.read(path, _read(entry.path, path, info.st_size)))

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with ExitStack() as opened:
            # Open folders and not lists of names: memory goes with the depth, not with the count.
            stack = [opened.enter_context(os.scandir(self.root))]
            while stack:
                entry = next(stack[-1], None)
                if entry is None:
                    stack.pop().close()
                    continue
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    if len(stack) == DEEPEST:
                        raise BadArchive(f"folders more than {DEEPEST} deep", member=entry.path)
                    stack.append(opened.enter_context(os.scandir(entry)))


def _read(place: str, path: str, size: int) -> Iterator[bytes]:
    # The file may have become a link, or a pipe that never ends, since it was looked at.
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        left = size if stat.S_ISREG(os.fstat(descriptor).st_mode) else -1
        for chunk in read_chunks(file) if left >= 0 else ():
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if left:
        raise BadArchive(f"{path} changed while it was read", member=path)

"""A tar file, plain or gzipped, as a source: read as a stream, never sought in."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from orchestrator.errors import BadArchive
from orchestrator.registry.importing.limits import Limits, Meter
from orchestrator.registry.importing.members import CHUNK, Member, read_chunks
from orchestrator.registry.importing.paths import check_path, is_litter, is_root

#: Bytes that the headers of one member may take: extended headers are read into memory whole.
HEADER_BYTES = 1 << 20
#: Settings for all members that follow; they pile up in memory.
GLOBAL_HEADERS = 64


class StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error: the library takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> StrictHeader:
        """Read the next header; the zero block that ends an archive passes as the library wants it."""
        try:
            return super().fromtarfile(tarfile)
        except EndOfArchive:
            raise
        except HeaderError as error:
            raise BadArchive(f"the tar file is damaged or cut off: {error}") from error


# Inside the class above, `tarfile` is the parameter that the library names so.
EndOfArchive = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # missing from the stubs
HeaderError = tarfile.HeaderError


class Gate:
    """The unpacked stream; while a header is read, only so many bytes pass."""

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self.file = file
        self.meter = meter
        self.allowance: int | None = HEADER_BYTES

    def read(self, size: int) -> bytes:
        """As a file's read; counts against the allowance."""
        data = self.file.read(size)
        if self.allowance is not None:
            self.allowance -= len(data)
            if self.allowance < 0:
                raise BadArchive(f"a tar header takes more than {HEADER_BYTES} bytes")
        return data


class Tar:
    """The files of a tar archive, in its order."""

    total = None
    unordered = False

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.meter = Meter(limits, packed=path.stat().st_size)

    def members(self) -> Iterator[Member]:
        """The files; links, devices and sparse files are refused."""
        with self._unpacked() as file:
            gate = Gate(file, self.meter)
            with _damage():
                tar = _open(gate)
            with closing(tar):
                yield from self._files(tar, gate)
            self._check_rest(file)

    def _check_rest(self, file: BinaryIO) -> None:
        """Read to the end, where a gzip file has its checksum."""
        with _damage():
            for _ in self.meter.read("the padding", read_chunks(file)):
                pass

    def _files(self, tar: tarfile.TarFile, gate: Gate) -> Iterator[Member]:
        while header := _next(tar, gate):
            if is_root(header.name):
                continue
            path = check_path(header.name)
            self.meter.admit(path, header.size)
            if header.isdir():
                continue
            if not header.isfile() or header.issparse():
                raise BadArchive(f"{path} is a link, a device or sparse: only plain files are imported", member=path)
            content = self.meter.read(path, _content(tar, header))
            if is_litter(path):
                for _ in content:
                    pass
            else:
                yield Member(path, header.size, content)

    @contextmanager
    def _unpacked(self) -> Iterator[BinaryIO]:
        with self.path.open("rb") as packed:
            zipped = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            if zipped:
                with gzip.GzipFile(fileobj=packed) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield packed


def _open(gate: Gate) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=cast(BinaryIO, gate), mode="r|", tarinfo=StrictHeader, encoding="utf-8", errors="strict"
    )


def _next(tar: tarfile.TarFile, gate: Gate) -> tarfile.TarInfo | None:
    gate.allowance = HEADER_BYTES
    with _damage():
        header = tar.next()
    gate.allowance = None
    # The library keeps every header it has seen.
    tar.members = []  # type: ignore[attr-defined]  # documented nowhere, and the only way before Python 3.13
    if len(tar.pax_headers) > GLOBAL_HEADERS:
        raise BadArchive(f"more than {GLOBAL_HEADERS} global headers")
    return header


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo) -> Iterator[bytes]:
    left = header.size
    file = tar.extractfile(header)
    while file is not None and left:
        # Around the read alone: what the reader of the chunks raises is none of the archive's damage.
        with _damage():
            chunk = file.read(min(left, CHUNK))
        if not chunk:
            raise BadArchive(f"{header.name}: the archive ends in the middle", member=header.name)
        left -= len(chunk)
        yield chunk


@contextmanager
def _damage() -> Iterator[None]:
    """Say in one way what the libraries below say in many."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadArchive(f"a path in the tar file is not valid UTF-8: {error}") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError, ValueError) as error:
        raise BadArchive(f"the tar file is damaged or cut off: {error}") from error

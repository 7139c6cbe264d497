"""A zip file as a source."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import BadArchive
from orchestrator.registry.importing.limits import Limits, Meter
from orchestrator.registry.importing.members import CHUNK, Member
from orchestrator.registry.importing.paths import check_path, is_litter, is_root
from orchestrator.registry.importing.zip_directory import (
    ENCRYPTED,
    Directory,
    Entry,
    find_directory,
    read_directory,
)

_LOCAL = struct.Struct("<4s5H3L2H")

STORED, DEFLATED = 0, 8


class Zip:
    """The files of a zip archive, in the order of its directory."""

    unordered = False

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.meter = Meter(limits, packed=path.stat().st_size)
        with path.open("rb") as file:
            self.directory = find_directory(file)
        self.total: int | None = self.directory.entries

    def members(self) -> Iterator[Member]:
        """The files; links, devices and encrypted members are refused."""
        # One place in the directory and one in the data, so that neither is sought for again.
        with self.path.open("rb") as listing, self.path.open("rb") as data:
            for entry in read_directory(listing, self.directory):
                if is_root(entry.name):
                    continue
                path = check_path(entry.name.removesuffix("/"))
                self.meter.admit(path, entry.size)
                _check(entry, path)
                if not entry.is_folder and not is_litter(path):
                    content = _content(data, entry, path, self.directory)
                    yield Member(path, entry.size, self.meter.read(path, content))


def _check(entry: Entry, path: str) -> None:
    if entry.is_special:
        raise BadArchive(f"{path} is a link or a device: only plain files are imported", member=path)
    if entry.flags & ENCRYPTED:
        raise BadArchive(f"{path} is encrypted: import an archive without a password", member=path)
    if entry.method not in (STORED, DEFLATED):
        raise BadArchive(f"{path} is packed by method {entry.method}: use deflate or store", member=path)
    if entry.is_folder and entry.size:
        raise BadArchive(f"{path} is a folder with content", member=path)


def _content(file: BinaryIO, entry: Entry, path: str, directory: Directory) -> Iterator[bytes]:
    """The unpacked bytes; size and checksum are compared at the end."""
    _seek_data(file, entry, path, directory)
    packed = _packed(file, entry.packed, path)
    crc = size = 0
    for chunk in packed if entry.method == STORED else _inflate(packed, path):
        crc = zlib.crc32(chunk, crc)
        size += len(chunk)
        if size > entry.size:
            break
        yield chunk
    if size != entry.size or crc != entry.crc:
        raise BadArchive(f"{path} is damaged: its size or checksum is wrong", member=path)


def _seek_data(file: BinaryIO, entry: Entry, path: str, directory: Directory) -> None:
    file.seek(entry.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) != _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise BadArchive(f"{path} is damaged: its header is not where the directory says", member=path)
    name_length, extra_length = _LOCAL.unpack(header)[-2:]
    # Two names for one member would let it pass here as one file and elsewhere as another.
    if file.read(name_length) != entry.raw_name:
        raise BadArchive(f"{path} has another name in its own header", member=path)
    start = entry.header_offset + _LOCAL.size + name_length + extra_length
    if start + entry.packed > directory.offset:
        raise BadArchive(f"{path} is damaged: it reaches into the directory", member=path)
    file.seek(start)


def _packed(file: BinaryIO, left: int, path: str) -> Iterator[bytes]:
    while left:
        chunk = file.read(min(left, CHUNK))
        if not chunk:
            raise BadArchive(f"{path}: the archive ends in the middle", member=path)
        left -= len(chunk)
        yield chunk


def _inflate(packed: Iterator[bytes], path: str) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in packed:
            if inflater.eof:
                raise BadArchive(f"{path} is damaged: something follows its packed data", member=path)
            pending = chunk
            # Bounded output: a few bytes of a bomb would otherwise become any number at once.
            while pending and not inflater.eof:
                yield inflater.decompress(pending, CHUNK)
                pending = inflater.unconsumed_tail
        while not inflater.eof:
            rest = inflater.decompress(inflater.unconsumed_tail, CHUNK)
            if not rest:
                break
            yield rest
    except zlib.error as error:
        raise BadArchive(f"{path} is damaged: {error}", member=path) from error
    if not inflater.eof or inflater.unused_data:
        raise BadArchive(f"{path} is damaged: its packed data does not end where it should", member=path)

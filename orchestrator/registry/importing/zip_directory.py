"""The central directory of a zip file, an entry at a time.

The standard library reads it into memory whole, and a streaming reader never sees it, though only
there it says which members are links. Layout: PKWARE APPNOTE 6.3, sections 4.3.12 to 4.3.16.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from orchestrator.errors import BadArchive

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")

_LONGEST_COMMENT = 0xFFFF
_UNKNOWN16, _UNKNOWN32 = 0xFFFF, 0xFFFF_FFFF

ENCRYPTED = 0x1 | 0x40 | 0x2000
UTF8 = 0x800


class Directory(NamedTuple):
    """Where the entries are, and how many."""

    offset: int
    size: int
    entries: int


class Entry(NamedTuple):
    """One member as the directory has it; sizes in bytes."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header_offset: int
    mode: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which the name alone decides."""
        return self.raw_name.endswith(b"/")

    @property
    def is_special(self) -> bool:
        """Whether it is a link, a device, a pipe or a socket."""
        kind = stat.S_IFMT(self.mode)
        return kind not in (0, stat.S_IFDIR if self.is_folder else stat.S_IFREG)


def find_directory(file: BinaryIO) -> Directory:
    """Read the record at the end of the file.

    Raises:
        BadArchive: there is none, it contradicts itself, or the archive has several parts.
    """
    length = file.seek(0, 2)
    tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise BadArchive("no zip file, or one that is cut off: its directory is missing")
    _, disk, first_disk, here, entries, size, offset, comment = _END.unpack_from(tail, at)
    end = tail_start + at
    if end + _END.size + comment != length:
        raise BadArchive("the zip file is damaged: something follows its end")
    if disk != first_disk or here != entries:
        raise BadArchive("a zip file in several parts cannot be imported: join it first")
    found = Directory(offset, size, entries)
    if _UNKNOWN16 in (disk, entries) or _UNKNOWN32 in (size, offset):
        end, found = _find_directory64(file, end, found)
    if found.offset + found.size != end:
        raise BadArchive("the zip file is damaged: its directory is not where it should be")
    return found


def _find_directory64(file: BinaryIO, end: int, short: Directory) -> tuple[int, Directory]:
    if end < _LOCATOR.size:
        return end, short
    file.seek(end - _LOCATOR.size)
    magic, _, at, parts = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != b"PK\x06\x07":
        return end, short  # exactly 65,535 entries need no larger record
    if parts > 1 or at + _END64.size > end:
        raise BadArchive("the zip file is damaged: its 64-bit directory is not where it should be")
    file.seek(at)
    magic, *_, entries, size, offset = _END64.unpack(file.read(_END64.size))
    if magic != b"PK\x06\x06":
        raise BadArchive("the zip file is damaged: its 64-bit directory is not where it should be")
    return at, Directory(offset, size, entries)


def read_directory(file: BinaryIO, directory: Directory) -> Iterator[Entry]:
    """The entries in their order; `file` must not be moved by anybody else meanwhile.

    Raises:
        BadArchive: the directory is damaged, or holds more or fewer entries than it says.
    """
    file.seek(directory.offset)
    left = directory.size
    for _ in range(directory.entries):
        fixed = _take(file, min(_ENTRY.size, left), _ENTRY.size)
        fields = _ENTRY.unpack(fixed)
        variable = sum(fields[10:13])
        left -= _ENTRY.size + variable
        if fields[0] != b"PK\x01\x02" or left < 0:
            raise BadArchive("the zip file is damaged: its directory does not hold what it says")
        yield _entry(fields, _take(file, variable, variable))
    if left:
        raise BadArchive("the zip file is damaged: its directory holds more than it says")


def _take(file: BinaryIO, size: int, wanted: int) -> bytes:
    data = file.read(size)
    if len(data) != wanted:
        raise BadArchive("the zip file is cut off inside its directory")
    return data


def _entry(fields: tuple[int, ...], variable: bytes) -> Entry:
    _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, _, _, _, external, offset = fields
    raw_name = variable[:name_length]
    extra = variable[name_length : name_length + extra_length]
    # Each value that did not fit is all ones here, and follows in the extra field in this order.
    sizes = _widen(extra, size, packed, offset)
    return Entry(raw_name, _decode(raw_name, flags), flags, method, crc, sizes[1], sizes[0], sizes[2], external >> 16)


def _widen(extra: bytes, *values: int) -> list[int]:
    if _UNKNOWN32 not in values:
        return list(values)
    wide = _extra_field(extra, 0x0001)
    count = values.count(_UNKNOWN32)
    if len(wide) < 8 * count:
        raise BadArchive("the zip file is damaged: a 64-bit size is missing")
    found = iter(struct.unpack_from(f"<{count}Q", wide))
    return [next(found) if value == _UNKNOWN32 else value for value in values]


def _extra_field(extra: bytes, wanted: int) -> bytes:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _decode(raw: bytes, flags: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if flags & UTF8:
            shown = raw[:200].decode("utf-8", "backslashreplace")
            raise BadArchive(f"path {shown!r} is not valid UTF-8", member=shown) from error
        return raw.decode("cp437")  # what the format means where it does not say UTF-8

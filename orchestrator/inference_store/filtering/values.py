"""Values as texts that sort byte by byte as the values do, whatever the database; stored, and looked for, alike."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from typing import Final, NamedTuple

from orchestrator.database import storable

INT: Final = re.compile(r"[+-]?[0-9]+")
FLOAT: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE
)
#: Digits of an integer that fits into a head; longer ones are not compared.
LONGEST_INT: Final = 150
#: Characters of a column that holds a key, path or label.
LONGEST_NAME: Final = 255
#: Comes behind whatever may follow the first part of a number's text.
BEHIND: Final = ";"

_SIGN: Final = 1 << 63
_COMPLEMENT: Final = str.maketrans("0123456789", "9876543210")


class Number(NamedTuple):
    """A number as a text: of a float the first part alone, of an integer also its digits, which keeps it exact."""

    value: float
    text: str


def parse_int(text: str) -> Number | None:
    """The integer that `text` says: digits, perhaps behind a sign; None if it says none, or one that is too long."""
    if INT.fullmatch(text) is None:
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > LONGEST_INT:
        return None
    number = int(digits)
    is_negative = text.startswith("-") and number > 0
    exact = f"0{999 - len(digits):03}{digits.translate(_COMPLEMENT)}" if is_negative else f"1{len(digits):03}{digits}"
    value = -float(number) if is_negative else float(number)
    return Number(value, f"{_float_text(value)}:{exact}")


def parse_float(text: str) -> Number | None:
    """The number that `text` says in decimal notation or as an infinity; None if it says none, or NaN."""
    if FLOAT.fullmatch(text) is None:
        return None
    value = float(text)
    return None if math.isnan(value) else Number(value, _float_text(value))


def is_nan(text: str) -> bool:
    """Whether `text` says NaN, which equals nothing and lies on no side of anything."""
    return FLOAT.fullmatch(text) is not None and math.isnan(float(text))


def fitted(path: str) -> str:
    """`path`, or, where that is too long for its column, its start and its digest."""
    if len(path) <= LONGEST_NAME:
        return path
    digest = hashlib.sha256(storable(path).encode()).hexdigest()
    return f"{path[: LONGEST_NAME - len(digest) - 1]}…{digest}"


def _float_text(value: float) -> str:
    """Sixteen hexadecimal digits that sort as floats do; both zeros are one."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    return f"{bits ^ (2 * _SIGN - 1) if bits & _SIGN else bits | _SIGN:016x}"

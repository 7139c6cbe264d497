"""Texts that callers name things by, and limits of lists, checked before a database sees them."""

from __future__ import annotations

from orchestrator.database import storable
from orchestrator.errors import InvalidRequest

#: Characters of a column that holds an id, a key or a source.
LONGEST = 255
#: What a database takes for a limit.
LARGEST_LIMIT = 2**31 - 1


def checked_limit(limit: int) -> int:
    """`limit`, if a list can be so long.

    Raises:
        InvalidRequest: it is negative, or larger than any list.
    """
    if not 0 <= limit <= LARGEST_LIMIT:
        raise InvalidRequest(f"limit is {limit}: it must be 0 or more, and {LARGEST_LIMIT} at most")
    return limit


def may_exist(*texts: str) -> bool:
    """Whether a database could hold them all; if not, nothing is called so, and none need be asked."""
    return all(storable(text) == text for text in texts)


def checked_text(name: str, text: str, *, longest: int | None = LONGEST) -> str:
    """`text`, if a database can store and find it.

    Raises:
        InvalidRequest: it is longer than `longest` characters, or holds NUL or half a character.
    """
    if storable(text) != text:
        raise InvalidRequest(f"{name}: {text[:80]!r} holds characters that cannot be stored: leave out NUL")
    if longest is not None and len(text) > longest:
        raise InvalidRequest(f"{name}: {text[:80]!r}… has {len(text)} characters: {longest} at most are allowed")
    return text


def checked_id(name: str, text: str) -> str:
    """`text`, if it can name something.

    Raises:
        InvalidRequest: it is empty, too long, or holds characters that cannot be stored.
    """
    if not text:
        raise InvalidRequest(f"{name} is empty: give it a name")
    return checked_text(name, text)

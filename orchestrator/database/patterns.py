"""SQL's ILIKE for a database that has none."""

from __future__ import annotations

import re
from functools import lru_cache


def matches(value: str | None, pattern: str) -> bool | None:
    """Whether `value` matches: `%` is anything, `_` one character, a backslash takes the next one literally.

    As in SQL, nothing is known of what is NULL.
    """
    return None if value is None else _compiled(pattern).fullmatch(value) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.findall(r"\\(.)|(.)", pattern, re.DOTALL)
    pieces = [""]
    for escaped, plain in parts:
        if plain == "%":
            pieces.append("")
        else:
            pieces[-1] += "." if plain == "_" else re.escape(escaped or plain)
    first, *others = pieces
    # A piece is found where it comes first, and nowhere else: to try each place of each would take ages.
    between = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    last = f".*{others[-1]}" if others else ""
    return re.compile(first + between + last, re.IGNORECASE | re.DOTALL)

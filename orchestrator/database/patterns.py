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
    wild = {"%": ".*", "_": "."}
    text = "".join(re.escape(escaped) if escaped else wild.get(plain, re.escape(plain)) for escaped, plain in parts)
    return re.compile(text, re.IGNORECASE | re.DOTALL)

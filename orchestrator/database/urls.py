"""URLs of servers as a person may see them."""

from __future__ import annotations

from sqlalchemy import make_url


def without_secrets(url: str) -> str:
    """`url` with its password masked, and without its query, which may hold another.

    Raises:
        ArgumentError: it is no URL.
    """
    return make_url(url).set(query={}).render_as_string(hide_password=True)

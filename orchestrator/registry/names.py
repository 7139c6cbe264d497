"""What a person may call a project, a dataset, a snapshot or a model."""

from __future__ import annotations

from orchestrator.errors import InvalidRequest

#: Characters.
LONGEST_NAME = 255


def check_name(name: str, what: str) -> str:
    """Return `name` when it can be stored, listed and typed again; `what` is the thing it names."""
    if not 0 < len(name) <= LONGEST_NAME or name != name.strip() or not name.isprintable():
        raise InvalidRequest(
            f"{name[:80]!r} is no name for a {what}: use 1 to {LONGEST_NAME} printable characters, "
            "without spaces at the ends"
        )
    return name

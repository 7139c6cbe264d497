"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  #: jobs run, but somebody should look
    PROBLEM = "problem"  #: jobs do not run, or not for long


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was found, and in one line how to mend it."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Jobs run, but somebody should look."""
    return Finding(check, Level.WARNING, message, remedy)


def problem(check: str, message: str, remedy: str) -> Finding:
    """Jobs do not run, or not for long."""
    return Finding(check, Level.PROBLEM, message, remedy)

"""`orchestrator demo`: real digits, a real model, a real inference server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import NotFound

#: Whatever follows is the demo's own business.
CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def demo(
    arguments: Annotated[list[str] | None, typer.Argument(help="Handed on to the demo; try --help.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON document.")] = False,
) -> None:
    """Infer over handwritten digits, from nothing to an accuracy, and clean up."""
    root = checkout()
    if root is None:
        raise NotFound(
            "the demo is part of the source tree and not of the installed package: clone the repository and run "
            "`make demo` there, or this command inside it"
        )
    command = [sys.executable, "-m", "examples.digits", *(["--json"] if as_json else []), *(arguments or [])]
    # In this process's place: waiting for it would kill it a moment after Ctrl-C, in the middle of cleaning up.
    os.chdir(root)
    os.execv(sys.executable, command)  # noqa: S606  this very Python, and arguments of our own user


def checkout() -> Path | None:
    """The source tree that holds the demo: the one this package is run from, else the present folder."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "examples" / "digits" / "__main__.py").is_file():
            return root
    return None

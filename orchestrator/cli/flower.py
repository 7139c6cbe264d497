"""`orchestrator flower`: Celery's monitor, behind a password or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

from orchestrator.cli.output import JsonOption, console, print_facts, print_json
from orchestrator.errors import InvalidRequest, Unavailable
from orchestrator.settings import settings

#: `user:password`, for those who do not want it in a shell's history.
VARIABLE = "ORCHESTRATOR_FLOWER_BASIC_AUTH"


def flower(
    user: Annotated[str | None, typer.Option(help="Who may look.")] = None,
    password: Annotated[str | None, typer.Option(help=f"Better in {VARIABLE}=user:password.")] = None,
    address: Annotated[str, typer.Option(help="Where to listen; beyond loopback belongs TLS in front.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5555,
    as_json: JsonOption = False,
) -> None:
    """Show workers and tasks in a browser, behind a password.

    Without --user and --password, and without ORCHESTRATOR_FLOWER_BASIC_AUTH, a password is made up
    and printed, this once.
    """
    if find_spec("flower") is None:
        raise Unavailable("Flower is an extra: pip install 'orchestrator[flower]'")
    user, chosen = credentials(user, password)
    made_up = chosen or secrets.token_urlsafe(12)
    url = f"http://{address}:{port}"
    shown = {"url": url, "user": user} | ({} if chosen else {"password": made_up})
    if as_json:
        print_json(shown)
    else:
        print_facts("Flower", shown.items())
        console().print("  Ctrl-C stops it.", style="dim")
    sys.stdout.flush()
    become_flower(f"{user}:{made_up}", address, port)


def credentials(user: str | None, password: str | None) -> tuple[str, str | None]:
    """Who may look, and the password, or None if one is to be made up; options go before the environment.

    Raises:
        InvalidRequest: they cannot be used for basic authentication.
    """
    if user is None and password is None and VARIABLE in os.environ:
        user, colon, password = os.environ[VARIABLE].partition(":")
        if not colon:
            raise InvalidRequest(f"{VARIABLE} must be user:password")
    user = "admin" if user is None else user
    # Flower reads a list at commas, and the user's name ends at the first colon.
    if not user or ":" in user or "," in user:
        raise InvalidRequest("Flower's user needs a name without colons and commas")
    if password is not None and (not password or "," in password):
        raise InvalidRequest("Flower does not start without a password; it may hold no comma")
    return user, password


def become_flower(basic_auth: str, address: str, port: int) -> NoReturn:
    """Let Flower take over this process, with its password where no other user can see it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    environment |= {"FLOWER_BASIC_AUTH": basic_auth, "ORCHESTRATOR_HOME": str(settings().home)}
    environment.pop(VARIABLE, None)
    # No configuration file: one in the present folder could switch the password off.
    options = [f"--address={address}", f"--port={port}", f"--conf={os.devnull}"]
    command = [sys.executable, "-m", "celery", "-A", "workers", "flower", *options]
    os.execve(sys.executable, command, environment)  # noqa: S606  no shell is wanted

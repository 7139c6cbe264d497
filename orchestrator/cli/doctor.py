"""`orchestrator doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.guard import REFUSED
from orchestrator.cli.output import JsonOption, console, print_json
from orchestrator.doctor import Finding, Level, examine

MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.PROBLEM: ("problem", "bold red")}


def doctor(as_json: JsonOption = False) -> None:
    """Check everything that jobs need; exit code 1 if there is a problem."""
    findings = examine()
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(REFUSED)


def _print(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        what = Text(finding.message)
        if finding.remedy:
            what.append(f"\n→ {finding.remedy}", style="cyan")
        table.add_row(Text(*MARKS[finding.level]), finding.check, what)
    console().print(table)

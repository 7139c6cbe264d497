"""Check what no linter here checks: sizes of files and functions, and that every suppression gives its reason."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("orchestrator", "workers", "examples", "benchmarks", "scripts", "tests")
FILE_LINES = 400
FUNCTION_LINES = 70

#: A suppression with its codes; what follows them is the reason.
SUPPRESSION = re.compile(
    r"#\s*(?P<kind>type:\s*ignore|noqa)"
    r"(?P<codes>\[[\w\s,-]+\]|:\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?"
    r"(?P<rest>.*)"
)


def main() -> int:
    """Print every breach as `file:line: what`; return 1 if there is one."""
    breaches = [breach for path in sources() for breach in breaches_of(path)]
    for breach in breaches:
        print(breach)
    print(f"limits: {len(breaches)} breaches")
    return 1 if breaches else 0


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def breaches_of(path: Path) -> Iterator[str]:
    """What `path` does that the house forbids; migrations, being generated, may be as long as they must."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = text.splitlines()
    generated = "migrations" in path.parts
    if len(lines) > FILE_LINES and not generated:
        yield f"{name}: {len(lines)} lines, more than {FILE_LINES}: is it two rooms?"
    for number, line in enumerate(lines, start=1):
        if (problem := unexplained(line)) is not None:
            yield f"{name}:{number}: {problem}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and not generated:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES}"


def unexplained(line: str) -> str | None:
    """What is wrong with the suppression on `line`, if there is one and it lacks codes or a reason."""
    found = SUPPRESSION.search(line)
    if found is None:
        return None
    if not found["codes"]:
        return f"`{found['kind']}` must name what it suppresses"
    if not re.search(r"\w{2,}.*\w{2,}", found["rest"]):
        return f"`{found['kind']}{found['codes']}` needs a reason behind it"
    return None


if __name__ == "__main__":
    sys.exit(main())

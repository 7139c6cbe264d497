"""`python -m workers.health`: whether workers and beat on this machine do their work, for probes that run a command.

Exit code 0 when all of this user's processes here are healthy, 1 when one is not, or none is there.
With names (`celery@host`, `beat`), only those, each of which must be there. Nothing but files is read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from workers.telemetry import folder


def main(names: Sequence[str]) -> int:
    """Print a line for each process, and return the exit code."""
    found = [status for status in statuses() if not names or status["name"] in names]
    missing = [name for name in names if name not in {status["name"] for status in found}]
    for status in found:
        say(f"{status['name']} (pid {status['pid']}): {'; '.join(status['reasons']) or 'healthy'}")
    for name in missing or ([] if found else ["worker"]):
        say(f"no {name} runs here")
    return 0 if found and not missing and all(status["healthy"] for status in found) else 1


def say(line: str) -> None:
    """Print a line: what a probe prints is kept with its failure."""
    sys.stdout.write(f"{line}\n")


def statuses() -> list[dict[str, Any]]:
    """What the living processes of this machine last said of themselves; one that is frozen is not healthy."""
    found = []
    for place in folder.folders():
        if not folder.is_held(place):
            continue  # it was killed, and left this behind
        try:
            status = json.loads((place / folder.STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it begins or ends just now
        age = time.monotonic() - status["at"]
        if not 0 <= age <= status["valid_for"]:
            status |= {"healthy": False, "reasons": [f"it has said nothing for {age:.0f} s"]}
        found.append(status)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

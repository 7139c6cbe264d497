"""Acts of people in processes of their own, which have crash points like workers: submissions and imports.

As a program it waits with everything imported, and does each act in a fork of itself: an act that is
killed costs nothing but its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.bulk_inference import submit_bulk_inference_job
from orchestrator.bulk_inference.models import NewBulkInferenceJobRequest
from orchestrator.registry import import_snapshot
from tests.chaos import points
from tests.support.processes import ROOT
from tests.support.reaper import Reaper, kill_group


class Killed(Exception):
    """The process that did the act was killed."""


class Actor:
    """Does acts, one after another."""

    def __init__(self, reaper: Reaper, environment: Mapping[str, str]) -> None:
        self.reaper = reaper
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.actor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        reaper.watch(self.process.pid)

    def submit(self, request: NewBulkInferenceJobRequest, request_id: str) -> str:
        """Submit a job, as the role `submitter`; its id.

        Raises:
            Killed: perhaps after the job was written.
        """
        return self._do("submitter", "submit", request=request.model_dump(mode="json"), request_id=request_id)

    def take_in(self, dataset_id: str, source: Path, name: str) -> str:
        """Import a snapshot, as the role `importer`; its id.

        Raises:
            Killed: perhaps after all was written.
        """
        return self._do("importer", "take_in", dataset_id=dataset_id, source=str(source), name=name)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            kill_group(self.process.pid)
        self.process.communicate()
        self.reaper.forget(self.process.pid)

    def _do(self, role: str, act: str, **values: Any) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([role, act, values]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if answer is None:
            raise Killed
        return str(answer)


def submit(request: dict[str, Any], request_id: str) -> str:
    """Submit a job."""
    return submit_bulk_inference_job(NewBulkInferenceJobRequest(**request), request_id=request_id)


def take_in(dataset_id: str, source: str, name: str) -> str:
    """Import a snapshot."""
    return import_snapshot(dataset_id, Path(source), name=name).id


ACTS: dict[str, Callable[..., str]] = {"submit": submit, "take_in": take_in}


def act_out(role: str, act: str, values: Mapping[str, Any]) -> str | None:
    """Do the act in a fork; None if that did not come to an end."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        points.role = role
        os.write(writes, ACTS[act](**values).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    return text if status == 0 else None


def main() -> None:
    """Do what standard input says, an act a line."""
    import tests.chaos.faulty  # noqa: F401  for the points

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an act logs is no answer
    for line in sys.stdin:
        print(json.dumps(act_out(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()

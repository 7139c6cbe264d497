"""What every measurement stands on: a database, a broker, a model server, and data in a snapshot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
from sqlalchemy import select

from benchmarks.instant_server import LABELS
from orchestrator import registry, schema
from orchestrator.database import dispose, reading
from orchestrator.ledger.tables import JobRow
from orchestrator.logs import configure_logging
from orchestrator.registry.models import Endpoint, InputCodec, Model, OutputCodec, Project, Snapshot, TaskType
from orchestrator.settings import settings
from tests.support.processes import Workers, wait_until
from tests.support.reaper import Reaper
from tests.support.services import own_postgres, own_redis

DatabaseKind = Literal["sqlite", "postgres"]


@dataclass(frozen=True)
class Stage:
    """The surroundings of one run."""

    home: Path
    workers: Workers
    project: Project
    snapshot: Snapshot

    @property
    def split(self) -> str:
        """The name of the snapshot's only split."""
        return self.snapshot.splits[0].split

    def settle(self) -> None:
        """Wait until nothing is to be done: what a job leaves behind, such as its index, would slow the next down."""
        wait_until(_is_idle, "every job is closed", within=600)


def _is_idle() -> bool:
    with reading() as session:
        return session.scalar(select(JobRow.id).where(JobRow.closed_at.is_(None)).limit(1)) is None


@contextmanager
def stage(kind: DatabaseKind, datums: int) -> Iterator[Stage]:
    """Start a database and a broker, and import a snapshot of `datums` small files."""
    # As for Ctrl-C: everything that was started ends, and its folders go.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestrator-bench-")))
        reaper = stack.enter_context(Reaper())
        os.environ["ORCHESTRATOR_HOME"] = str(home)
        os.environ["ORCHESTRATOR_LOG_LEVEL"] = "WARNING"
        # Workers are killed at the end, and so leave their temporary files where they are: they go with the home.
        os.environ["TMPDIR"] = str(home / "temporary")
        Path(os.environ["TMPDIR"]).mkdir()
        os.environ["ORCHESTRATOR_BROKER_URL"] = stack.enter_context(own_redis(reaper)).url
        os.environ.pop("ORCHESTRATOR_DATABASE_URL", None)
        os.environ.pop("ORCHESTRATOR_BLOB_URL", None)
        if kind == "postgres":
            url = stack.enter_context(own_postgres(reaper)).url
            os.environ["ORCHESTRATOR_DATABASE_URL"] = url.render_as_string(hide_password=False)
        settings.cache_clear()
        configure_logging()
        stack.callback(dispose)
        schema.upgrade()
        project = registry.create_project("benchmark")
        snapshot = import_files(home / "source", project, datums)
        workers = Workers(home, reaper)
        stack.callback(workers.close)
        yield Stage(home, workers, project, snapshot)


def import_files(folder: Path, project: Project, datums: int) -> Snapshot:
    """A snapshot of files of about 900 bytes, the size of a small PNG."""
    folder.mkdir()
    for ordinal in range(datums):
        (folder / f"{ordinal:07d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"%07d" % ordinal * 128)
    dataset = registry.create_dataset(project.id, "files")
    return registry.import_snapshot(dataset.id, folder)


@contextmanager
def model_server(stage: Stage, *options: str) -> Iterator[Model]:
    """A model server in a process of its own, registered under a new name."""
    command = [sys.executable, "-m", "benchmarks.instant_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            yield registry.register_model(
                stage.project.id, f"model-{time.time_ns()}", TaskType.IMAGE_CLASSIFICATION, endpoint(url)
            )
        finally:
            process.terminate()


def endpoint(url: str) -> Endpoint:
    """How to talk to the instant server."""
    return Endpoint(
        url=url,
        model_name="model",
        input_codec=InputCodec.IMAGE_BASE64,
        output_codec=OutputCodec.CLASSIFICATION,
        labels=LABELS,
    )


def counts(model: Model) -> dict[str, int]:
    """Requests that the model's server has served and refused."""
    found: dict[str, int] = httpx.get(f"{model.endpoint.url}/counts").json()
    return found


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, texts: int = 0) -> None:
    """Print rows in columns, of which the first `texts` hold words rather than numbers."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        columns = enumerate(zip(row, widths, strict=True))
        print("  " + "  ".join(cell.ljust(size) if at < texts else cell.rjust(size) for at, (cell, size) in columns))

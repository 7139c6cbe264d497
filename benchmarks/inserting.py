"""A writer in a process of its own: it stores a few inferences again and again, and says how long each time took.

Started by `benchmarks.retention`. It says when it begins, goes on until its stdin is closed, and then prints the
seconds as one JSON list.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.orm import Session

from orchestrator import clock
from orchestrator.database import insert_rows, transact
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow

#: Inferences in one transaction, and seconds between the beginnings of two.
ROWS, INTERVAL = 20, 0.02
COLUMNS = ("inference_id", "data", "data_hash")
DATA = json.dumps([{"label": f"class-{number}", "score": 0.1} for number in range(3)])


def main() -> None:
    """Write until nobody listens."""
    is_over = threading.Event()
    threading.Thread(target=listen, args=(is_over,), daemon=True).start()
    model_id, taken = new_id(), list[float]()
    print("at work", flush=True)
    while not is_over.is_set() or not taken:
        begun = time.perf_counter()
        transact(insert, model_id, clock.now(), ROWS)
        taken.append(time.perf_counter() - begun)
        time.sleep(max(0.0, INTERVAL - taken[-1]))
    print(json.dumps(taken))


def listen(is_over: threading.Event) -> None:
    """Set the event once stdin is closed."""
    sys.stdin.read()
    is_over.set()


def insert(session: Session, model_id: str, created_at: datetime, count: int) -> None:
    """Inferences as a caller stores them, without a blob."""
    shared: dict[str, str | datetime] = {
        "model_id": model_id,
        "created_at": created_at,
        "inference_action": "predict",
        "version": "v2",
    }
    rows = [(new_id(), DATA, f"{number:064x}") for number in range(count)]
    insert_rows(session, InferenceRow, shared, COLUMNS, rows)


@contextmanager
def writer() -> Iterator[list[float]]:
    """Writes as long as the block runs; then the list holds how long each transaction took, in seconds."""
    taken: list[float] = []
    command = [sys.executable, "-m", "benchmarks.inserting"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n", "the writer cannot begin"
        yield taken
        process.stdin.close()
        taken += json.loads(process.stdout.read())


if __name__ == "__main__":
    main()

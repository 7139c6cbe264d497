"""The seed of a run of chaos: given by a variable, else new; every process of the run has the same."""

from __future__ import annotations

import os
import time

SEED_VARIABLE = "ORCHESTRATOR_CHAOS_SEED"
#: Set as well: the processes that share a run's tests inherit it. Read here and now: the tests are run without it.
SEED = int(os.environ.setdefault(SEED_VARIABLE, str(time.time_ns() % 1_000_000)))

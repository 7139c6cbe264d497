"""Training runs at work: a short step for each transition of a run, and beat's look at all that are live."""

from __future__ import annotations

from orchestrator.database import transact
from orchestrator.ledger import Lease, Outcome, pulses
from orchestrator.queues import app
from orchestrator.training_v2 import finish as finishing
from orchestrator.training_v2 import step as stepping
from orchestrator.training_v2 import watch
from orchestrator.training_v2.submit import KIND
from workers.runtimes import runtimes
from workers.runtimes.kubernetes import KubernetesRuntime
from workers.runtimes.local import LocalRuntime
from workers.runtimes.tidy import sweep, tidy
from workers.unit import unit


@unit(f"{KIND}.step")
def step(lease: Lease) -> Outcome:
    """Make one transition of a run."""
    return stepping.step(lease, runtimes())


@unit(f"{KIND}.finish")
def finish(lease: Lease) -> Outcome:
    """End a run that could not be driven."""
    return finishing.finish(lease, runtimes())


@app.task(name="ticks.training")
def tick() -> None:
    """Look at all live runs that are in sight from here, and at what lives on of others."""
    transact(pulses.beat, "tick:training", {})
    watch.watch(runtimes())
    for runtime in runtimes().values():
        if isinstance(runtime, LocalRuntime):
            sweep(runtime)


@app.task(name="ticks.checkpoints")
def clear() -> None:
    """Remove deleted runs and checkpoints, what nobody will complete any more, and what is left of launches of old."""
    watch.sweep()
    tidy()
    for runtime in runtimes().values():
        if isinstance(runtime, KubernetesRuntime):
            runtime.sweep()

"""Which checkpoints of a run its policy keeps: the newest, and those with the best value of a metric."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.training_v2.metrics import newest
from orchestrator.training_v2.models import CheckpointPolicy
from orchestrator.training_v2.tables import CheckpointRow, MetricRow, RunRow


def superfluous(session: Session, run_id: str) -> list[str]:
    """Complete checkpoints that the run's policy does not keep; none without a policy."""
    said = session.scalar(select(RunRow.checkpoint_policy).where(RunRow.id == run_id))
    if said is None:
        return []
    policy = CheckpointPolicy.model_validate(said)
    complete = session.execute(
        select(CheckpointRow.id, CheckpointRow.global_step)
        .where(CheckpointRow.run_id == run_id, CheckpointRow.status == "complete", CheckpointRow.deleted_at.is_(None))
        .order_by(CheckpointRow.created_at.desc(), CheckpointRow.id.desc())
    ).all()
    newest = {checkpoint_id for checkpoint_id, _ in complete[: policy.keep_last]}
    best = _best(session, run_id, policy, [(step, checkpoint_id) for checkpoint_id, step in complete])
    return [checkpoint_id for checkpoint_id, _ in complete if checkpoint_id not in newest | best]


def _best(session: Session, run_id: str, policy: CheckpointPolicy, complete: list[tuple[int, str]]) -> set[str]:
    """Those with the best value of the policy's metric, which was measured last at their step."""
    if not policy.keep_best or policy.best_by is None:
        return set()
    known: list[tuple[float, str]] = []
    for step, checkpoint_id in complete:
        measured = newest(run_id, 1, None).where(MetricRow.global_step == step, MetricRow.tag == policy.best_by)
        known += [(metric.value, checkpoint_id) for metric in session.scalars(measured)]
    known.sort(key=lambda each: each[0], reverse=policy.best_is == "max")
    return {checkpoint_id for _, checkpoint_id in known[: policy.keep_best]}

"""The ledger: whatever must be done is a row, and every effect happens once."""

from orchestrator.ledger.dispatch import dispatch, nudge, top_up
from orchestrator.ledger.jobs import close, conclude, finish_if_drained, open_job, pause, reopen, requested, resume
from orchestrator.ledger.leases import check, claim, count_stale_write, hold, is_paused, renew, settle
from orchestrator.ledger.lifecycle import MOVES, UNFINISHED, UnitState
from orchestrator.ledger.models import (
    Again,
    Done,
    Failed,
    Hopeless,
    Lease,
    NewUnit,
    Outcome,
    Postponed,
    Progress,
    UnitSummary,
)
from orchestrator.ledger.reconcile import Reconciled, reconcile
from orchestrator.ledger.units import add, cancel, list_units, progress, retry

__all__ = [
    "MOVES",
    "UNFINISHED",
    "Again",
    "Done",
    "Failed",
    "Hopeless",
    "Lease",
    "NewUnit",
    "Outcome",
    "Postponed",
    "Progress",
    "Reconciled",
    "UnitState",
    "UnitSummary",
    "add",
    "cancel",
    "check",
    "claim",
    "close",
    "conclude",
    "count_stale_write",
    "dispatch",
    "finish_if_drained",
    "hold",
    "is_paused",
    "list_units",
    "nudge",
    "open_job",
    "pause",
    "progress",
    "reconcile",
    "renew",
    "reopen",
    "requested",
    "resume",
    "retry",
    "settle",
    "top_up",
]

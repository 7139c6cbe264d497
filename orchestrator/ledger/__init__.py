"""The ledger: whatever must be done is a row, and every effect happens once."""

from orchestrator.ledger import gates, holds
from orchestrator.ledger.dispatch import dispatch, top_up
from orchestrator.ledger.jobs import (
    check_same,
    close,
    conclude,
    finish_if_drained,
    open_job,
    pause,
    reopen,
    requested,
    resume,
)
from orchestrator.ledger.leases import check, claim, count_stale_write, hold, is_paused, note, renew, settle
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
    Split,
    UnitSummary,
)
from orchestrator.ledger.nudging import nudge, settle_nudges
from orchestrator.ledger.reconcile import Reconciled, reconcile
from orchestrator.ledger.turns import gives_way, whose_turn
from orchestrator.ledger.units import add, cancel, list_units, progress, retry, wake

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
    "Split",
    "UnitState",
    "UnitSummary",
    "add",
    "cancel",
    "check",
    "check_same",
    "claim",
    "close",
    "conclude",
    "count_stale_write",
    "dispatch",
    "finish_if_drained",
    "gates",
    "gives_way",
    "hold",
    "holds",
    "is_paused",
    "list_units",
    "note",
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
    "settle_nudges",
    "top_up",
    "wake",
    "whose_turn",
]

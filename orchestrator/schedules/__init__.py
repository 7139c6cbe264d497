"""Schedules: jobs that are submitted again and again, and a ledger of every instant at which they were due."""

from orchestrator.schedules.decisions import Ticked
from orchestrator.schedules.firing import fire, give_up
from orchestrator.schedules.models import NewSchedule, Occurrence, OccurrenceState, Overlap, Schedule
from orchestrator.schedules.pruning import prune
from orchestrator.schedules.schedule import (
    add,
    create_schedule,
    delete_schedule,
    find_schedule,
    get_schedule,
    list_occurrences,
    list_schedules,
    next_times,
    pause_schedule,
    remove,
    resume_schedule,
    run_schedule_now,
    update_schedule,
)
from orchestrator.schedules.ticking import tick

__all__ = [
    "NewSchedule",
    "Occurrence",
    "OccurrenceState",
    "Overlap",
    "Schedule",
    "Ticked",
    "add",
    "create_schedule",
    "delete_schedule",
    "find_schedule",
    "fire",
    "get_schedule",
    "give_up",
    "list_occurrences",
    "list_schedules",
    "next_times",
    "pause_schedule",
    "prune",
    "remove",
    "resume_schedule",
    "run_schedule_now",
    "tick",
    "update_schedule",
]

"""The processes of a launch: found by where they come from, the session they are in, or what they were given.

One look at the host's processes serves any number of launches.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
import structlog

from orchestrator.training_v2.runner.surroundings import LAUNCH, RUN_ID
from workers.runtimes.identity import ProcessId, boot_id, find, look

log = structlog.get_logger(__name__)

#: Processes that have ended, whether or not anybody has taken note of it.
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
#: Seconds between two looks at what is being killed.
GLANCE = 0.02


@dataclass(frozen=True, slots=True)
class Marks:
    """What the processes of one launch are known by."""

    run_id: str
    launch: int
    supervisor: ProcessId | None = None
    trainer: ProcessId | None = None


def members(launches: Sequence[Marks]) -> list[list[psutil.Process]]:
    """The processes of each launch, in the launches' order, that have not ended, without supervisors and this process.

    A process is a launch's that has its name in the environment, is in its trainer's session, or descends from its
    supervisor or from another that is.
    """
    children, owners = defaultdict(list), _Owners(launches)
    found: dict[Marks, list[psutil.Process]] = {marks: [] for marks in launches}
    processes = {each.pid: each for each in psutil.process_iter(["ppid", "status"]) if each.info["status"] not in ENDED}
    for process in processes.values():
        children[process.info["ppid"]].append(process)
    seen = {os.getpid(), *owners.supervisors}
    for pid, marks in owners.supervisors.items():
        found[marks] += _descendants(children, pid, seen)
    for pid, process in processes.items():
        owner = None if pid in seen else owners.of(process)
        if owner is not None:
            seen.add(pid)
            found[owner] += [process, *_descendants(children, pid, seen)]
    return [found[marks] for marks in launches]


def kill(marks: Marks, *, within: float, reap: Callable[[], object] = lambda: None) -> bool:
    """SIGKILL the processes of a launch until none is left; says whether that was so in time.

    `reap` is called between two looks, by a parent for its children.
    """
    deadline = time.monotonic() + within
    while strike(members([marks])[0]):
        reap()
        if time.monotonic() > deadline:
            return False
        time.sleep(GLANCE)
    return True


def kill_with_supervisor(marks: Marks, *, within: float) -> bool:
    """The same, its supervisor included, which would be the last to know what descends from it."""
    descendants = members([marks])[0]
    if marks.supervisor is not None:
        send(marks.supervisor, signal.SIGKILL)
    strike(descendants)
    return kill(marks, within=within)


def strike(processes: Sequence[psutil.Process]) -> bool:
    """SIGKILL each; says whether there was one that may be killed."""
    struck = False
    for process in processes:
        try:
            process.kill()
        except psutil.AccessDenied:
            # It has become another user's: nobody here will ever end it, and nothing is to wait for that.
            log.warning("not_ours_to_kill", pid=process.pid)
            continue
        except psutil.Error:
            pass
        struck = True
    return struck


def send(process: ProcessId, number: int) -> bool:
    """Send a signal to exactly this process; says whether it was there."""
    if find(process) is None:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _descendants(children: Mapping[int, list[psutil.Process]], pid: int, seen: set[int]) -> list[psutil.Process]:
    """Those that descend from `pid`, but for what was seen; they are then."""
    found: list[psutil.Process] = []
    parents = [pid]
    while parents:
        fresh = [child for child in children.get(parents.pop(), ()) if child.pid not in seen]
        seen.update(child.pid for child in fresh)
        parents += [child.pid for child in fresh]
        found += fresh
    return found


class _Owners:
    """Tells whose a process is."""

    def __init__(self, launches: Sequence[Marks]) -> None:
        self.supervisors = {each.supervisor.pid: each for each in launches if each.supervisor and find(each.supervisor)}
        self._names = {(each.run_id, str(each.launch)): each for each in launches}
        self._sessions = {each.trainer.pid: each for each in launches if each.trainer and _may_have_left(each.trainer)}

    def of(self, process: psutil.Process) -> Marks | None:
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            owner = self._names.get((environment.get(RUN_ID, ""), environment.get(LAUNCH, "")))
            if owner is not None:
                return owner
        with suppress(OSError):
            return self._sessions.get(os.getsid(process.pid))
        return None


def _may_have_left(leader: ProcessId) -> bool:
    """Whether a session with the leader's number is the leader's own: while it lasts, nobody else gets the number."""
    if leader.boot != boot_id():
        return False
    standing = look(leader.pid)
    return standing is None or standing.id == leader

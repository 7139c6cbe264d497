"""Weighted deficit round robin: whose unit goes next when several projects wait.

After M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin" (1996), with
a cost of one for each unit, since units are cut to take about the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Claimant:
    """A project that waits: how many units it could publish, its weight, and what it is owed."""

    waiting: int
    weight: int
    deficit: float = 0.0


def share_out(claimants: Mapping[str, Claimant], room: int) -> list[str]:
    """Spend `room` places over the projects; returns the project of each place, in order.

    Updates each claimant's `waiting` and `deficit`. A project that has nothing left loses its
    deficit: what it did not want is not owed to it later.
    """
    places: list[str] = []
    while len(places) < room:
        active = {name: claimant for name, claimant in claimants.items() if claimant.waiting > 0}
        if not active:
            break
        name = max(active, key=lambda name: active[name].deficit)
        if active[name].deficit < 1:
            for claimant in active.values():
                claimant.deficit += claimant.weight
            continue
        active[name].deficit -= 1
        active[name].waiting -= 1
        places.append(name)
    for claimant in claimants.values():
        if claimant.waiting == 0:
            claimant.deficit = 0.0
    return places


def newcomers(claimants: Mapping[str, Claimant], served: Collection[str], room: int) -> list[str]:
    """One place beyond the window for each project that has none in it, for up to `room` projects.

    Behind a full window a small job would wait for the large ones of others; what it is given in
    advance is taken off its share.
    """
    left_out = [name for name, claimant in claimants.items() if name not in served and claimant.waiting > 0]
    left_out.sort(key=lambda name: -claimants[name].deficit)
    for name in left_out[:room]:
        claimants[name].deficit -= 1
        claimants[name].waiting -= 1
    return left_out[:room]


def share_at_work(busy: Mapping[str, int], weights: Mapping[str, int], project_id: str, more: int = 0) -> float:
    """How much the project has of the workers, `more` units included, by its weight."""
    return (busy.get(project_id, 0) + more) / weights.get(project_id, 1)

"""Deficit round robin by itself: shares by weight, nobody starves, nobody hoards."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ledger.fairness import Claimant, share_out


def test_places_are_shared_by_weight() -> None:
    claimants = {"heavy": Claimant(1000, 3), "light": Claimant(1000, 1)}
    assert Counter(share_out(claimants, 40)) == {"heavy": 30, "light": 10}


def test_what_one_does_not_want_goes_to_the_others() -> None:
    claimants = {"small": Claimant(2, 100), "large": Claimant(1000, 1)}
    assert Counter(share_out(claimants, 10)) == {"small": 2, "large": 8}


def test_whoever_has_nothing_left_is_owed_nothing_later() -> None:
    claimants = {"small": Claimant(1, 100), "large": Claimant(1000, 1)}
    share_out(claimants, 10)
    assert claimants["small"].deficit == 0


def test_nobody_waits_for_no_place() -> None:
    assert share_out({}, 10) == []
    assert share_out({"idle": Claimant(0, 1)}, 10) == []
    assert share_out({"waiting": Claimant(5, 1)}, 0) == []


@given(
    weights=st.dictionaries(st.text(min_size=1), st.integers(1, 20), min_size=1, max_size=6),
    rooms=st.lists(st.integers(0, 12), min_size=1, max_size=60),
)
def test_shares_over_time_follow_the_weights_however_few_places_come_free_at_a_time(
    weights: dict[str, int], rooms: list[int]
) -> None:
    deficits = dict.fromkeys(weights, 0.0)
    given_out: Counter[str] = Counter()
    for room in rooms:
        claimants = {name: Claimant(room + 1, weight, deficits[name]) for name, weight in weights.items()}
        given_out.update(share_out(claimants, room))
        deficits = {name: claimant.deficit for name, claimant in claimants.items()}
    assert given_out.total() == sum(rooms)
    turns = sum(rooms) / sum(weights.values())
    for name, weight in weights.items():
        assert abs(given_out[name] - turns * weight) <= 2 * max(weights.values())


@given(
    waiting=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=6),
    room=st.integers(0, 60),
)
def test_no_place_stays_empty_while_somebody_waits(waiting: list[tuple[int, int]], room: int) -> None:
    claimants = {f"project {n}": Claimant(*each) for n, each in enumerate(waiting)}
    places = share_out(claimants, room)
    assert len(places) == min(room, sum(count for count, _ in waiting))
    assert all(places.count(f"project {n}") <= count for n, (count, _) in enumerate(waiting))

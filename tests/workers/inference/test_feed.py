"""The feed: every datum once and in order, in bounded memory, and nothing more after it was closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.local import LocalBlobs
from workers.inference.bisect import Item
from workers.inference.failures import FailureClass
from workers.inference.feed import GROUP_BYTES, LEAST_WEIGHT, Feed, Reference, groups

pytestmark = pytest.mark.anyio


class CountingBlobs(LocalBlobs):
    """Real blobs in a folder, which know how many were read."""

    read = 0

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        found = await super().get_many(keys)
        self.read += len(found)
        return found


@pytest.fixture
def blobs(tmp_path: Path) -> CountingBlobs:
    return CountingBlobs(tmp_path / "blobs")


def references(blobs: LocalBlobs, count: int, *, size: int = 10) -> list[Reference]:
    """Datums with a blob each, of `size` bytes."""
    contents = [f"{number:010}".encode() * (size // 10) for number in range(count)]
    keys = [blobs.put_content(content) for content in contents]
    return [Reference(number, f"datum-{number}", f"sha-{number}", key, size) for number, key in enumerate(keys)]


async def rest_of(feed: Feed) -> list[list[Item]]:
    batches = []
    while (batch := await feed.next()) is not None:
        batches.append(batch)
    return batches


@pytest.mark.parametrize("count, batch_size", [(0, 4), (1, 4), (4, 4), (9, 4), (600, 1), (600, 7), (600, 1000)])
async def test_every_datum_is_handed_out_once_and_in_order(blobs: CountingBlobs, count: int, batch_size: int) -> None:
    feed = Feed(blobs, [references(blobs, count)], batch_size)
    batches, _ = await asyncio.gather(rest_of(feed), feed.fill())
    assert [item.ordinal for batch in batches for item in batch] == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(item.data == f"{item.ordinal:010}".encode() for batch in batches for item in batch)
    assert not feed.is_open
    assert not feed.was_closed


async def test_many_may_ask_at_once_and_all_learn_that_there_is_no_more(blobs: CountingBlobs) -> None:
    feed = Feed(blobs, [references(blobs, 50)], 4)
    shares, _ = await asyncio.gather(asyncio.gather(*(rest_of(feed) for _ in range(8))), feed.fill())
    assert sorted(item.ordinal for batches in shares for batch in batches for item in batch) == list(range(50))


@pytest.mark.parametrize("size, batch_size", [(10, 1), (10, 64), (1 << 20, 1), (1 << 20, 4)])
async def test_no_more_is_read_ahead_than_two_groups(blobs: CountingBlobs, size: int, batch_size: int) -> None:
    feed = Feed(blobs, [references(blobs, 1, size=size) * 2000], batch_size)
    filling = asyncio.create_task(feed.fill())
    taken = 0
    most = 2 * GROUP_BYTES // max(size, LEAST_WEIGHT) + batch_size
    for _ in range(20):
        batch = await feed.next()
        assert batch is not None
        taken += len(batch)
        assert blobs.read - taken <= most
    feed.close()
    await filling


async def test_a_batch_larger_than_a_group_comes_whole(blobs: CountingBlobs) -> None:
    feed = Feed(blobs, [references(blobs, 1) * 1500], 1000)
    batches, _ = await asyncio.gather(rest_of(feed), feed.fill())
    assert [len(batch) for batch in batches] == [1000, 500]


async def test_a_closed_feed_hands_out_nothing_and_reads_no_further(blobs: CountingBlobs) -> None:
    feed = Feed(blobs, [references(blobs, 1) * 5000], 1)
    filling = asyncio.create_task(feed.fill())
    assert await feed.next() is not None
    feed.close()
    assert await feed.next() is None
    await filling
    assert blobs.read <= 512
    assert feed.was_closed


async def test_closing_lets_everyone_go_who_waits(blobs: CountingBlobs) -> None:
    feed = Feed(blobs, [references(blobs, 10)], 4)
    waiting = [asyncio.create_task(feed.next()) for _ in range(5)]
    await asyncio.sleep(0)
    feed.close()
    assert await asyncio.gather(*waiting) == [None] * 5


async def test_closing_a_feed_that_has_run_out_changes_nothing(blobs: CountingBlobs) -> None:
    feed = Feed(blobs, [references(blobs, 3)], 4)
    await asyncio.gather(rest_of(feed), feed.fill())
    feed.close()
    assert not feed.was_closed


async def test_a_datum_whose_blob_is_gone_is_lost_alone(blobs: CountingBlobs) -> None:
    known = references(blobs, 300)
    blobs.delete_many([known[17].storage_key, known[299].storage_key])
    feed = Feed(blobs, [known], 4)
    batches, _ = await asyncio.gather(rest_of(feed), feed.fill())
    assert [item.ordinal for batch in batches for item in batch] == [n for n in range(300) if n not in (17, 299)]
    assert [lost.ordinal for lost in feed.lost] == [17, 299]
    assert (feed.lost[0].failure_class, feed.lost[0].attempts) == (FailureClass.ITEM, 0)
    assert known[17].storage_key in feed.lost[0].message


@given(st.lists(st.integers(0, 3 * GROUP_BYTES)))
def test_groups_hold_everything_in_order_and_only_a_huge_datum_exceeds_the_bound(sizes: list[int]) -> None:
    known = [Reference(number, "", "", "", size) for number, size in enumerate(sizes)]
    found = list(groups(known))
    assert [reference for group in found for reference in group] == known
    assert all(group for group in found)
    assert all(len(group) == 1 or sum(reference.size for reference in group) <= GROUP_BYTES for group in found)
    assert all(len(group) <= GROUP_BYTES // LEAST_WEIGHT for group in found)

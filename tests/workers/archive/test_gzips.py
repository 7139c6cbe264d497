"""Gzip members: what goes in comes out, by anybody's reader, and however it was cut."""

from __future__ import annotations

import gzip

from hypothesis import given
from hypothesis import strategies as st

from workers.archive import gzips

CHUNKS = st.lists(st.binary(max_size=300))


@given(CHUNKS)
def test_stored_members_hold_what_went_in_however_it_was_cut(chunks: list[bytes]) -> None:
    made = b"".join(gzips.Stored(chunks))
    assert gzip.decompress(made) == b"".join(chunks)
    assert made == b"".join(gzips.Stored([b"".join(chunks)]))


def test_members_larger_than_a_batch_are_cut_into_blocks_that_do_not_depend_on_chunks() -> None:
    content = bytes(range(256)) * 5000 * 4
    made = b"".join(gzips.Stored([content]))
    assert gzip.decompress(made) == content
    assert made == b"".join(gzips.Stored(content[at : at + 100_001] for at in range(0, len(content), 100_001)))
    assert len(made) < len(content) * 1.0002


@given(CHUNKS, CHUNKS)
def test_members_one_behind_the_other_are_one_file(first: list[bytes], second: list[bytes]) -> None:
    whole = gzips.packed(first) + b"".join(gzips.Stored(second))
    assert gzip.decompress(whole) == b"".join([*first, *second])


@given(CHUNKS)
def test_what_was_packed_is_unpacked(chunks: list[bytes]) -> None:
    packed = gzips.packed(chunks)
    assert b"".join(gzips.unpacked([packed[:5], packed[5:]])) == b"".join(chunks)
    assert packed[4:8] == bytes(4)  # no time

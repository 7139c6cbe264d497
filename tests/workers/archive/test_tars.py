"""Tar headers: those of the library, but for the time that they take."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.archive import tars

NAMES = st.from_regex(r"images/[A-Za-z0-9._~-]{1,90}", fullmatch=True)


@given(NAMES, st.integers(0, 8**11 - 1))
def test_a_header_is_the_librarys(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tars.header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("size", [8**11, 1 << 40])
def test_a_file_of_any_size_has_a_header_that_is_read_back(size: int) -> None:
    info = tarfile.TarInfo.frombuf(tars.header("images/large.png", size)[:512], "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.uid) == ("images/large.png", size, 0, 0)


@given(st.lists(st.binary(max_size=2000), max_size=4))
def test_members_make_an_archive(contents: list[bytes]) -> None:
    parts = [(tars.header(str(n), len(data)), data, tars.padding(len(data))) for n, data in enumerate(contents)]
    archive = b"".join(piece for part in parts for piece in part) + tars.END
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [tar.extractfile(member).read() for member in tar] == contents  # type: ignore[union-attr]  # plain files

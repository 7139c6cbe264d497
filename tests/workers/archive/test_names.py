"""Names in an archive: one for each id, and none that leads out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.registry.importing.paths import check_path, is_litter
from workers.archive.names import extension, file_name


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_every_id_has_a_name_that_an_importer_takes(inference_id: str) -> None:
    name = file_name(inference_id, ".png")
    assert check_path(name) == name
    assert not is_litter(name)
    assert name.isascii()
    assert len(name) <= 100
    assert name.count("/") == 1


@given(st.lists(st.text("aA./_-~ é", min_size=1, max_size=6), unique=True))
def test_no_two_ids_have_one_name(ids: list[str]) -> None:
    assert len({file_name(inference_id, "") for inference_id in ids}) == len(ids)


def test_an_id_that_pretends_to_be_the_name_of_another_gets_a_name_of_its_own() -> None:
    pretended = file_name("a/b", "").removeprefix("images/")
    assert file_name(pretended, "") != file_name("a/b", "")


@pytest.mark.parametrize(
    "path, head, expected",
    [
        (None, b"\x89PNG\r\n\x1a\n", ".png"),
        (None, b"\xff\xd8\xff\xe0", ".jpg"),
        (None, b"GIF89a", ".gif"),
        (None, b"RIFF\0\0\0\0WEBP", ".webp"),
        (None, b"\x93NUMPY", ".npy"),
        (None, b"a text", ".txt"),
        (None, b'{"a": 1}', ".json"),
        (None, b"\0\1\2", ".bin"),
        ("train/scan.TIFF", b"\0", ".tiff"),
        ("train/scan.ti ff", b"a text", ".txt"),
        ("train/scan", b"\x89PNG\r\n\x1a\n", ".png"),
    ],
)
def test_an_extension_is_the_datums_or_what_the_bytes_say(path: str | None, head: bytes, expected: str) -> None:
    assert extension(path, head) == expected

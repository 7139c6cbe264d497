"""Inferences: stored whole or not at all, stored once, listed in order, and gone with their data."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator import storage
from orchestrator.database import db_now, reading, writing
from orchestrator.errors import Conflict, InvalidRequest, ModelNotFound, Unavailable
from orchestrator.inference_store import (
    BaseInferenceFilter,
    GeoPoint,
    InferenceAction,
    Metadata,
    MetadataFilter,
    NewGetInferencesRequest,
    Pagination,
    PaginationSortDirection,
    TaskType,
    bulk_delete_inferences,
    count_inferences,
    create_inference,
    create_inference_storage_request,
    delete_inference,
    filter_inferences,
    get_inference,
)
from orchestrator.inference_store import blobs as store_blobs
from orchestrator.inference_store.tables import (
    EmbeddingRow,
    InferenceRow,
    LabelRow,
    MetadataLeafRow,
    MetadataRow,
    StoreBlobRow,
)
from orchestrator.ledger import holds
from orchestrator.storage.local import LocalBlobs
from tests.support.store import (
    CATS,
    EVERYTHING,
    NO_FILTER,
    collection,
    create,
    create_upon,
    embedded,
    ids,
    registered,
    request,
)

pytestmark = pytest.mark.usefixtures("database")

PICTURE = b"a picture"


def count_of(table: type[LabelRow | EmbeddingRow | MetadataRow | MetadataLeafRow | InferenceRow | StoreBlobRow]) -> int:
    with reading() as session:
        return len(session.scalars(select(table)).all())


def age(inference_id: str, seconds: float) -> None:
    with writing() as session:
        created = {"created_at": db_now(timedelta(seconds=-seconds))}
        session.execute(update(InferenceRow).where(InferenceRow.inference_id == inference_id).values(**created))


def test_everything_that_is_given_comes_back() -> None:
    model_id = registered()
    metadata = {"camera": ("string", "east"), "shutter": ("float", "0.5"), "more": ("json", '{"a": {"b": 1}}')}
    given = collection(PICTURE, metadata, data_source="drone", latitude=48.5, longitude=-3.25)
    found = create_inference_storage_request(model_id, "i", PICTURE, given, is_protected=True)
    assert found is not None
    assert (found.model_id, found.inference_id, found.version) == (model_id, "i", "v2")
    assert json.loads(found.data or "") == CATS
    assert found.created_at == found.updated_at
    assert (found.data_source, found.data_coordinates) == ("drone", GeoPoint(latitude=48.5, longitude=-3.25))
    assert found.inference_action == "predict"
    assert found.is_protected
    assert found.structured_embedding is None
    assert found.metadata == [
        Metadata(key=key, type=kind, value=value) for key, (kind, value) in sorted(metadata.items())
    ]
    assert found.data_storage_key is not None
    assert storage.get_signed(found.presigned_url or "") == PICTURE


def test_an_embedding_comes_back_as_numbers() -> None:
    found = create(registered(TaskType.IMAGE_EMBEDDING, embedding_size=2), "i", embedded([1.5, -2]))
    assert found.structured_embedding == [1.5, -2]
    assert found.version == "v1"
    assert count_of(EmbeddingRow) == 1


def test_an_inference_without_any_list_is_stored_all_the_same() -> None:
    given = collection().model_copy(update={"image_classification": None})
    found = create(registered(), "i", given)
    assert (found.data, found.version, found.presigned_url) == (None, "v1", None)


@pytest.mark.parametrize(
    "name, task_type, action",
    [
        ("image_classification", TaskType.IMAGE_CLASSIFICATION, InferenceAction.PREDICT_PROBA),
        ("object_detection", TaskType.OBJECT_DETECTION, InferenceAction.DETECT),
        ("image_segmentation", TaskType.IMAGE_SEGMENTATION, InferenceAction.PREDICT),
        ("oriented_object_detection", TaskType.ORIENTED_OBJECT_DETECTION, InferenceAction.DETECT),
    ],
)
def test_each_standard_list_can_be_searched(name: str, task_type: TaskType, action: InferenceAction) -> None:
    values: dict[str, Any] = {"task_type": task_type, "inference_action": action, name: CATS}
    found = create(registered(task_type), "i", collection(**values))
    assert found.version == "v2"
    with reading() as session:
        labels = session.execute(select(LabelRow.element, LabelRow.label, LabelRow.score)).all()
    assert [tuple(row) for row in labels] == [(0, "cat", 0.75), (1, "dog", 0.25)]


def test_the_same_inference_created_again_is_stored_once() -> None:
    model_id = registered()
    first = create_upon(model_id, "i", PICTURE, metadata={"a": ("string", "b")})
    again = create_upon(model_id, "i", PICTURE, metadata={"a": ("string", "b")})
    assert again.model_dump(exclude={"presigned_url"}) == first.model_dump(exclude={"presigned_url"})
    assert (count_of(InferenceRow), count_of(StoreBlobRow), count_of(LabelRow)) == (1, 1, 2)


def test_who_stores_an_inference_again_may_protect_it_and_nobody_unprotects_it_so() -> None:
    model_id = registered()
    seen = []
    for is_protected in (False, True, False):
        found = create_inference(model_id, request(model_id, "i", collection(), is_protected=is_protected))
        assert found is not None
        seen.append(found.is_protected)
    assert seen == [False, True, True]


@pytest.mark.parametrize(
    "change, what",
    [
        ({"data_source": "elsewhere"}, "data_source"),
        ({"image_classification": []}, "data"),
        ({"metadata": {"a": ("string", "c")}}, "extended_metadata"),
    ],
)
def test_another_inference_under_the_same_id_is_refused(change: dict[str, Any], what: str) -> None:
    model_id = registered()
    create(model_id, "i", collection(metadata={"a": ("string", "b")}))
    with pytest.raises(Conflict, match=what):
        create(model_id, "i", collection(**({"metadata": {"a": ("string", "b")}} | change)))


def test_an_id_that_was_deleted_but_is_still_needed_is_not_given_away_again() -> None:
    model_id = registered()
    create(model_id, "i")
    with writing() as session:
        holds.place(session, store_blobs.hold_subject(model_id), "export")
    assert delete_inference(model_id, "i") == "i"
    with pytest.raises(Conflict, match="deleted"):
        create(model_id, "i")


@pytest.mark.parametrize(
    "values, what",
    [
        ({"latitude": 1.0}, "longitude"),
        ({"latitude": 90.5, "longitude": 0.0}, "latitude"),
        ({"latitude": float("nan"), "longitude": 0.0}, "latitude"),
        ({"data_size": -1}, "data_size"),
        ({"inference_action": InferenceAction.DETECT}, "inference_action"),
        ({"data_source": "a\0b"}, "data_source"),
        ({"data_source": "x" * 256}, "data_source"),
        ({"metadata": {"": ("string", "")}}, "key"),
        ({"metadata": {"k" * 256: ("string", "")}}, "key"),
        ({"metadata": {"k": ("string", "\ud800")}}, "'k'"),
        ({"image_classification": [{"label": "a", "score": float("nan")}]}, "JSON"),
        ({"image_classification": CATS, "embedding": [1.0]}, "embedding"),
        ({"embedding": []}, "embedding"),
        ({"embedding": [float("inf")]}, "embedding"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_stored(values: dict[str, Any], what: str) -> None:
    model_id = registered()
    with pytest.raises(InvalidRequest, match=what):
        create(model_id, "i", collection(**values))
    assert count_inferences(model_id, EVERYTHING) == 0


def test_an_embedding_of_another_size_is_refused_and_nothing_is_stored() -> None:
    model_id = registered(TaskType.IMAGE_EMBEDDING, embedding_size=3)
    with pytest.raises(InvalidRequest, match="2 numbers"):
        create(model_id, "i", embedded([1, 2]))
    assert count_inferences(model_id, EVERYTHING) == 0


def test_data_must_have_the_hash_that_its_metadata_says() -> None:
    with pytest.raises(InvalidRequest, match="data_hash"):
        create_inference_storage_request(registered(), "i", "text", collection(b"another text"))


def test_text_is_stored_as_utf8() -> None:
    found = create_inference_storage_request(registered(), "i", "señal", collection("señal".encode()))
    assert found is not None
    assert storage.get_signed(found.presigned_url or "").decode() == "señal"


def test_every_door_says_that_a_model_is_not_registered_and_a_lookup_finds_nothing() -> None:
    for door in (
        lambda: create("nobody", "i"),
        lambda: create_upon("nobody", "i", PICTURE),
        lambda: filter_inferences("nobody", EVERYTHING),
        lambda: count_inferences("nobody", EVERYTHING),
        lambda: delete_inference("nobody", "i"),
        lambda: bulk_delete_inferences("nobody", NO_FILTER),
    ):
        with pytest.raises(ModelNotFound, match="not registered"):
            door()
    assert get_inference("nobody", "i") is None
    assert count_of(StoreBlobRow) == 0


def test_a_request_for_another_model_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="model"):
        create_inference(registered(), request("other", "i", collection()))


def test_inferences_are_listed_oldest_first_in_pages() -> None:
    model_id = registered()
    for number in range(5):
        create(model_id, f"i{number}")
        age(f"i{number}", number)
    assert ids(model_id) == ["i4", "i3", "i2", "i1", "i0"]
    page = Pagination(limit=2, offset=1, direction=PaginationSortDirection.DESCENDING)
    found = filter_inferences(model_id, NewGetInferencesRequest(pagination=page))
    assert [inference.inference_id for inference in found] == ["i1", "i2"]
    assert count_inferences(model_id, NewGetInferencesRequest(pagination=page)) == 5
    everything = NewGetInferencesRequest(pagination=Pagination(limit=0))
    assert filter_inferences(model_id, everything) == []


def test_a_listing_presigns_only_if_it_is_asked_to_and_knows_all_metadata() -> None:
    model_id = registered()
    create_upon(model_id, "i", PICTURE, metadata={"a": ("string", "b")})
    (plain,) = filter_inferences(model_id, EVERYTHING)
    assert plain.presigned_url is None
    assert plain.metadata == [Metadata(key="a", type="string", value="b")]
    (signed,) = filter_inferences(model_id, NewGetInferencesRequest(presign=True))
    assert storage.get_signed(signed.presigned_url or "") == PICTURE


def test_a_deleted_inference_is_gone_with_all_that_belongs_to_it() -> None:
    model_id = registered()
    found = create_upon(model_id, "i", PICTURE, metadata={"a": ("json", '{"b": 1}')})
    assert delete_inference(model_id, "i") == "i"
    assert get_inference(model_id, "i") is None
    assert delete_inference(model_id, "i") is None
    tables = (InferenceRow, MetadataRow, MetadataLeafRow, LabelRow, StoreBlobRow)
    assert [count_of(table) for table in tables] == [0, 0, 0, 0, 0]
    assert not storage.blobs().exists(found.data_storage_key or "")


def test_protection_binds_retention_alone() -> None:
    model_id = registered()
    create_inference(model_id, request(model_id, "i", collection(), is_protected=True))
    assert delete_inference(model_id, "i") == "i"


def test_data_that_another_inference_has_stays() -> None:
    model_id = registered()
    for inference_id in ("one", "two"):
        create_upon(model_id, inference_id, PICTURE)
    delete_inference(model_id, "one")
    found = get_inference(model_id, "two")
    assert found is not None
    assert storage.get_signed(found.presigned_url or "") == PICTURE


def test_data_that_is_deleted_while_it_is_stored_again_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = registered()
    create_upon(model_id, "old", PICTURE)
    put = LocalBlobs.put_missing

    def put_and_delete(self: LocalBlobs, blobs: dict[str, bytes]) -> None:
        put(self, blobs)
        delete_inference(model_id, "old")

    monkeypatch.setattr(LocalBlobs, "put_missing", put_and_delete)
    found = create_upon(model_id, "new", PICTURE)
    assert storage.get_signed(found.presigned_url or "") == PICTURE
    assert count_of(StoreBlobRow) == 1


def test_a_blob_store_that_fails_keeps_nobody_from_deleting(monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = registered()
    create_upon(model_id, "i", PICTURE)

    def fail(*_: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(LocalBlobs, "delete_many", fail)
        assert delete_inference(model_id, "i") == "i"
    assert store_blobs.delete_doomed() == 1


def test_what_a_filter_finds_is_deleted_in_bulk() -> None:
    model_id = registered()
    for number, place in enumerate(["here", "there", "here"]):
        create(model_id, f"i{number}", collection(metadata={"place": ("string", place)}))
    here = MetadataFilter.model_validate({"key": "place", "type": "string", "operator": "=", "value": "here"})
    assert bulk_delete_inferences(model_id, BaseInferenceFilter(metadata_filter=[here])) == ["i0", "i2"]
    assert ids(model_id) == ["i1"]
    assert bulk_delete_inferences(model_id, NO_FILTER) == ["i1"]
    assert bulk_delete_inferences(model_id, NO_FILTER) == []


def test_a_score_that_is_no_number_of_a_database_is_kept_and_found_by_no_bound() -> None:
    model_id = registered()
    create(model_id, "a", collection(image_classification=[{"label": "cat", "score": 10**400}]))
    assert ids(model_id) == ["a"]
    with reading() as session:
        assert session.scalars(select(LabelRow.score)).all() == [None]


def test_data_that_is_nested_too_deep_is_no_embedding() -> None:
    found = create(registered(), "a")
    assert found.model_copy(update={"data": "[" * 100_000}).structured_embedding is None

"""Names that no database stores: nothing is called so, and whoever asks is told just that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.errors import BlobNotFound, InvalidRequest, JobNotFound, ModelNotFound, NotFound
from orchestrator.inference_store import (
    MetadataType,
    NewExportTaskRequest,
    NewExtendedMetadataRequest,
    NewGetMetadataStatisticsRequest,
    bulk_delete_inferences,
    cancel_export_task,
    count_inferences,
    create_inference,
    create_inference_from_upload,
    create_inference_storage_request,
    create_metadata,
    delete_inference,
    delete_metadata,
    filter_inferences,
    get_export_task,
    get_inference,
    get_metadata,
    get_metadata_key_type_counts,
    get_metadata_statistics,
    get_registered_model,
    submit_export_task,
    upload_data,
)
from orchestrator.inference_store.export_task import get_export_details, list_export_tasks
from tests.support.store import EVERYTHING, NO_FILTER, collection, create, registered, request

pytestmark = pytest.mark.usefixtures("database")

NAMES = ["a\0", "a\ud800"]
ENTRY = NewExtendedMetadataRequest(key="key", type=MetadataType.STRING, value="value")
STATISTICS = NewGetMetadataStatisticsRequest.model_validate({"key": "key", "type": "string"})


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_and_nothing_deleted(name: str) -> None:
    model_id = registered()
    for other in ("a?", "a\N{REPLACEMENT CHARACTER}"):
        create(model_id, other)
    create_metadata(model_id, "a?", ENTRY)
    assert (get_inference(model_id, name), get_inference(name, "a?")) == (None, None)
    assert delete_inference(model_id, name) is None
    assert (get_metadata(model_id, name), get_metadata(name, "a?")) == ([], [])
    assert (delete_metadata(model_id, "a?", name), delete_metadata(model_id, name, "key")) == (None, None)
    assert (get_registered_model(name), get_metadata_key_type_counts(name)) == (None, None)
    assert get_metadata_statistics(name, STATISTICS) is None
    assert (get_export_task(model_id, name), list_export_tasks(model_id=name)) == (None, [])
    assert count_inferences(model_id, EVERYTHING) == 2


@pytest.mark.parametrize("name", NAMES)
def test_what_must_be_there_is_missed(name: str) -> None:
    model_id = registered()
    doors: list[tuple[type[NotFound], Callable[[], object]]] = [
        (ModelNotFound, lambda: delete_inference(name, "a")),
        (ModelNotFound, lambda: filter_inferences(name, EVERYTHING)),
        (ModelNotFound, lambda: bulk_delete_inferences(name, NO_FILTER)),
        (ModelNotFound, lambda: upload_data(name)),
        (ModelNotFound, lambda: submit_export_task(name, NewExportTaskRequest())),
        (NotFound, lambda: create_metadata(model_id, name, ENTRY)),
        (JobNotFound, lambda: get_export_details(name)),
        (JobNotFound, lambda: cancel_export_task(name)),
        (BlobNotFound, lambda: create_inference_from_upload(model_id, "a", name)),
        (BlobNotFound, lambda: create_inference(model_id, request(model_id, "a", collection(), data_storage_key=name))),
    ]
    for error, door in doors:
        with pytest.raises(error):
            door()


def test_data_that_is_no_text_of_any_encoding_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="data"):
        create_inference_storage_request(registered(), "a", "\ud800", collection())

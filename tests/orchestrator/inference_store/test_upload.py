"""Uploads: data goes to a signed URL first, and is named by an inference later."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator import storage
from orchestrator.database import db_now, writing
from orchestrator.errors import BlobNotFound, Conflict, InvalidRequest, ModelNotFound, SignatureInvalid
from orchestrator.inference_store import (
    blobs,
    create_inference,
    create_inference_from_upload,
    get_inference,
    upload_data,
    upload_inference_and_metadata,
)
from orchestrator.inference_store.tables import StoreBlobRow
from tests.support.store import collection, registered, request

pytestmark = pytest.mark.usefixtures("database")

PICTURE = b"a picture"


def uploaded(model_id: str) -> str:
    upload = upload_data(model_id)
    assert upload is not None
    storage.put_signed(upload.data_presigned_url, PICTURE)
    return upload.data_storage_key


def test_data_is_uploaded_and_then_named() -> None:
    model_id = registered()
    key = uploaded(model_id)
    found = create_inference(model_id, request(model_id, "i", collection(PICTURE), data_storage_key=key))
    assert found is not None
    assert found.data_storage_key == key
    assert storage.get_signed(found.presigned_url or "") == PICTURE


def test_an_inference_can_be_uploaded_as_well() -> None:
    model_id = registered()
    given = collection(PICTURE, {"a": ("int", "1")}, data_source="drone")
    upload = upload_inference_and_metadata(model_id)
    assert upload is not None
    storage.put_signed(upload.metadata_presigned_url, given.encode())
    found = create_inference_from_upload(
        model_id, "i", upload.metadata_storage_key, data_storage_key=uploaded(model_id), is_protected=True
    )
    assert found is not None
    assert (found.data_source, found.is_protected) == ("drone", True)
    assert found.metadata is not None
    assert [entry.key for entry in found.metadata] == ["a"]


def test_an_upload_that_is_no_inference_is_refused() -> None:
    model_id = registered()
    with pytest.raises(InvalidRequest, match="no inference"):
        create_inference_from_upload(model_id, "i", uploaded(model_id))


def test_a_key_under_which_nothing_was_uploaded_is_refused() -> None:
    model_id = registered()
    upload = upload_data(model_id)
    assert upload is not None
    for key in (upload.data_storage_key, uploaded(registered()), "../escape", ""):
        with pytest.raises(BlobNotFound, match="PUT the data"):
            create_inference(model_id, request(model_id, "i", collection(PICTURE), data_storage_key=key))
    assert get_inference(model_id, "i") is None


def test_an_upload_that_was_swept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = registered()
    key = uploaded(model_id)
    is_known = blobs.is_known

    def look_and_doom(model: str, name: str) -> bool:
        known = is_known(model, name)
        with writing() as session:
            session.execute(update(StoreBlobRow).values(touched_at=db_now(-timedelta(days=2))))
        blobs.sweep_orphans()
        return known

    monkeypatch.setattr(blobs, "is_known", look_and_doom)
    with pytest.raises(Conflict, match="swept"):
        create_inference(model_id, request(model_id, "i", collection(PICTURE), data_storage_key=key))
    assert get_inference(model_id, "i") is None


def test_only_registered_models_get_urls() -> None:
    for door in (upload_data, upload_inference_and_metadata):
        with pytest.raises(ModelNotFound):
            door("nobody")


def test_a_url_is_for_one_thing_alone() -> None:
    upload = upload_data(registered())
    assert upload is not None
    with pytest.raises(SignatureInvalid):
        storage.get_signed(upload.data_presigned_url)
    with pytest.raises(SignatureInvalid):
        storage.put_signed(upload.data_presigned_url.replace("upload", "other"), PICTURE)

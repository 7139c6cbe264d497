"""Registration: once, however often; and what a model's embeddings are."""

from __future__ import annotations

import pytest

from orchestrator.errors import Conflict, InvalidRequest
from orchestrator.inference_store import (
    NewRegisterModelRequest,
    TaskType,
    get_registered_model,
    register_model_for_inference_storage,
)
from tests.support.store import create, embedded, registered

pytestmark = pytest.mark.usefixtures("database")


def register(**values: object) -> str | None:
    given = {"model_id": "m", "project_id": "p", "task_type": TaskType.IMAGE_EMBEDDING} | values
    return register_model_for_inference_storage(NewRegisterModelRequest.model_validate(given))


def test_a_model_is_registered_once_however_often() -> None:
    assert register(embedding_size=3) == "m"
    before = get_registered_model("m")
    assert register(embedding_size=3) == "m"
    assert get_registered_model("m") == before
    assert before is not None
    assert (before.model_id, before.embedding_size) == ("m", 3)
    assert before.created_at == before.updated_at


def test_a_model_that_nobody_registered_is_none() -> None:
    assert get_registered_model("nobody") is None


@pytest.mark.parametrize("change", [{"project_id": "q"}, {"task_type": "Text Embedding"}, {"embedding_size": 4}])
def test_a_model_is_not_registered_as_two_things(change: dict[str, object]) -> None:
    register(embedding_size=3)
    with pytest.raises(Conflict, match=next(iter(change))):
        register(**change)


@pytest.mark.parametrize(
    "wrong", [{"embedding_size": -1}, {"embedding_size": 1 << 20}, {"model_id": ""}, {"model_id": "a\0"}]
)
def test_what_cannot_be_registered_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        register(**wrong)


def test_the_first_embedding_says_the_size_of_those_that_follow() -> None:
    model_id = registered(TaskType.IMAGE_EMBEDDING)
    create(model_id, "first", embedded([1, 2, 3]))
    known = get_registered_model(model_id)
    assert known is not None
    assert known.embedding_size == 3
    with pytest.raises(InvalidRequest, match="2 numbers"):
        create(model_id, "second", embedded([1, 2]))


def test_the_size_of_embeddings_can_be_said_later() -> None:
    register()
    assert register(embedding_size=5) == "m"
    known = get_registered_model("m")
    assert known is not None
    assert known.embedding_size == 5

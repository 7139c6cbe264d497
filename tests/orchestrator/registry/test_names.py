"""Projects, datasets and models: made, found and listed, and never twice."""

from __future__ import annotations

import pytest

from orchestrator.errors import (
    Conflict,
    DatasetNotFound,
    ForbiddenAddress,
    InvalidRequest,
    ModelNotFound,
    ProjectNotFound,
)
from orchestrator.registry import (
    create_dataset,
    create_project,
    get_dataset,
    get_model,
    get_project,
    list_datasets,
    list_models,
    list_projects,
    list_snapshots,
    register_model,
)
from orchestrator.registry.models import Endpoint, InferenceAction, InputCodec, OutputCodec, Project, TaskType

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def project(database: object) -> Project:
    return create_project("digits", weight=3)


def endpoint(url: str = "http://127.0.0.1:8080") -> Endpoint:
    return Endpoint(
        url=url, model_name="m", input_codec=InputCodec.IMAGE_BASE64, output_codec=OutputCodec.CLASSIFICATION
    )


def test_a_project_is_found_by_id_and_by_name(project: Project) -> None:
    assert get_project(project.id) == get_project("digits") == project
    assert project.weight == 3
    assert project.created_at.tzinfo is not None


def test_projects_are_listed_by_name(project: Project) -> None:
    other = create_project("apples")
    assert list_projects() == [other, project]


def test_a_second_project_of_a_name_is_told_about_the_first(project: Project) -> None:
    with pytest.raises(Conflict, match=rf"'digits' already exists with id {project.id}"):
        create_project("digits")
    assert list_projects() == [project]


@pytest.mark.parametrize("name", ["", " padded", "a\nb", "nul\0", "x" * 256, "\ud800"])
def test_a_name_that_cannot_be_typed_again_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="printable"):
        create_project(name)


def test_a_weight_below_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        create_project("p", weight=0)


def test_an_unknown_project_is_named_in_the_error() -> None:
    for act in (get_project, list_datasets, list_models, lambda name: create_dataset(name, "d")):
        with pytest.raises(ProjectNotFound, match="nowhere"):
            act("nowhere")


def test_a_dataset_is_found_by_id_and_by_name_within_its_project(project: Project) -> None:
    dataset = create_dataset(project.id, "mnist")
    assert get_dataset(dataset.id) == get_dataset("mnist", project_id=project.id) == dataset
    assert list_datasets(project.id) == [dataset]
    assert list_snapshots(dataset.id) == []


def test_two_projects_may_have_a_dataset_of_one_name(project: Project) -> None:
    first = create_dataset(project.id, "mnist")
    other = create_project("other")
    create_dataset(other.id, "mnist")
    with pytest.raises(Conflict, match=first.id):
        create_dataset(project.id, "mnist")
    with pytest.raises(DatasetNotFound):
        get_dataset(first.id, project_id=other.id)


def test_a_model_has_every_method_of_its_task_unless_told(project: Project) -> None:
    model = register_model(project.id, "m", TaskType.IMAGE_CLASSIFICATION, endpoint("http://localhost:8080/base/"))
    assert model.actions == [InferenceAction.PREDICT, InferenceAction.PREDICT_PROBA]
    assert model.endpoint.url == "http://localhost:8080/base"
    assert get_model(model.id) == model


def test_a_model_by_name_is_the_one_registered_last(project: Project) -> None:
    first = register_model(project.id, "m", TaskType.OBJECT_DETECTION, endpoint())
    second = register_model(project.id, "m", TaskType.OBJECT_DETECTION, endpoint(), version="2")
    assert get_model("m", project_id=project.id) == second
    assert get_model("m", project_id=project.id, version="1") == first
    assert list_models(project.id) == [second, first]
    with pytest.raises(ModelNotFound, match="'3'"):
        get_model("m", project_id=project.id, version="3")


def test_a_version_is_registered_once(project: Project) -> None:
    model = register_model(project.id, "m", TaskType.TEXT_EMBEDDING, endpoint())
    with pytest.raises(Conflict, match=rf"{model.id}: register another version"):
        register_model(project.id, "m", TaskType.TEXT_EMBEDDING, endpoint())


def test_a_method_that_the_task_lacks_is_refused(project: Project) -> None:
    with pytest.raises(InvalidRequest, match="methods predict, predict_proba; given: detect"):
        register_model(project.id, "m", TaskType.IMAGE_CLASSIFICATION, endpoint(), actions=[InferenceAction.DETECT])
    assert list_models(project.id) == []


@pytest.mark.parametrize(
    "url",
    ["localhost:80", "ftp://host", "http://", "http://host:99999", "http://u:hush@host", "http://host/v2",
     "http://host/v2/models/m", "http://host?q=1", "http://host#f", "http://ho st", "http://host\n", "http://["],
)  # fmt: skip
def test_a_url_that_is_no_base_url_is_refused_without_telling_secrets(project: Project, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        register_model(project.id, "m", TaskType.OBJECT_DETECTION, endpoint(url))
    assert "hush" not in str(caught.value)


def test_a_metadata_address_is_refused(project: Project) -> None:
    with pytest.raises(ForbiddenAddress):
        register_model(project.id, "m", TaskType.OBJECT_DETECTION, endpoint("http://169.254.169.254"))

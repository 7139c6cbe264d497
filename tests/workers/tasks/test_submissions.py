"""The submission task where no database answers: the message is handed back, for it is all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.exceptions import Reject

from orchestrator.ledger.submissions import rejections
from tests.conftest import forget_settings
from tests.support.bulk_inference import Scene
from workers.tasks import submissions

if TYPE_CHECKING:
    from tests.conftest import Database

MESSAGE = {"kind": "bulk_inference", "spec": Scene("project", "dataset", "snapshot", "model").request().model_dump()}


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1", id="no server"),
        pytest.param("", id="no tables"),
    ],
)
def test_a_message_that_meets_no_database_comes_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", url)
    monkeypatch.setattr(submissions, "PAUSE", 0.0)
    forget_settings()
    with pytest.raises(Reject) as rejection:
        submissions.submit(MESSAGE)
    assert rejection.value.requeue


@pytest.mark.parametrize("spec", [{"model_id": "nul\0"}, {"model_id": "\udcff"}])
def test_a_message_with_what_no_database_stores_is_refused_with_the_reason(
    database: Database, spec: dict[str, object]
) -> None:
    assert database.url
    message = {"kind": "retention", "request_id": "nul\0", "spec": {"retention_policy_id": "policy", **spec}}
    assert submissions.accept("message", (message,), {}) is None
    [refused] = rejections()
    assert (refused.message_id, bool(refused.reason)) == ("message", True)

"""The submission task where no database answers: the message is handed back, for it is all there is."""

from __future__ import annotations

import pytest
from celery.exceptions import Reject

from tests.conftest import forget_settings
from tests.support.bulk_inference import Scene
from workers.tasks import submissions

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

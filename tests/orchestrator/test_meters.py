"""What is counted, and what is read off the windows of a worker."""

from __future__ import annotations

import gc

from orchestrator import meters


class Window:
    """As much of congestion control as is watched."""

    def __init__(self, in_flight: int, limit: int) -> None:
        self.in_flight = in_flight
        self.limit = limit


def value(name: str, **labels: str) -> float | None:
    return meters.REGISTRY.get_sample_value(name, labels)


def test_windows_are_added_up_by_endpoint_and_model_and_forgotten_with_their_connection() -> None:
    labels = {"endpoint": "models.test:8000", "model": "digits", "model_id": "m1"}
    first, second = Window(3, 8), Window(2, 4)
    for window in (first, second):
        meters.watch(window, model_id="m1", model="digits", url="http://user:secret@models.test:8000/base")
    meters.sample()
    assert value("orchestrator_requests_in_flight", **labels) == 5
    assert value("orchestrator_request_limit", **labels) == 12
    del first, second, window
    gc.collect()
    meters.sample()
    assert value("orchestrator_requests_in_flight", **labels) == 0
    assert value("orchestrator_request_limit", **labels) == 0


def test_datums_are_counted_under_the_name_of_their_model() -> None:
    window = Window(0, 4)
    meters.watch(window, model_id="m2", model="faces", url="http://models.test")
    meters.count_datums("m2", {"stored": 10, "failed": 0})
    meters.count_datums("m2", {"stored": 5, "failed": 1})
    assert value("orchestrator_datums_total", model="faces", model_id="m2", outcome="stored") == 15
    assert value("orchestrator_datums_total", model="faces", model_id="m2", outcome="failed") == 1


def test_no_metric_is_labelled_by_a_job_or_a_unit() -> None:
    for metric in (
        meters.CLAIMS,
        meters.ATTEMPTS,
        meters.LEASES_LOST,
        meters.STALE_WRITES,
        meters.DATUMS,
        meters.PUBLISHED,
        meters.RECONCILED,
        meters.IN_FLIGHT,
        meters.LIMIT,
    ):
        assert metric._labelnames, "a metric without labels would open its file before its process knows its place"
        assert not {"job", "job_id", "unit", "unit_id", "attempt"} & set(metric._labelnames)

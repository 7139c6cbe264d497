"""Ports on which the processes of an instance show their metrics."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack


def metrics_ports(names: Sequence[str], first: int = 0) -> dict[str, int]:
    """A port of 127.0.0.1 for each name: `first` and those that follow it, or, for 0, whichever are free now."""
    if first:
        return {name: first + number for number, name in enumerate(names)}
    with ExitStack() as stack:
        # All of them are open at the same time, so that no two are the same.
        probes = [stack.enter_context(socket.socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}


def targets(urls: dict[str, str]) -> list[dict[str, object]]:
    """What Prometheus reads as `file_sd_configs`."""
    return [
        {"targets": [url.removeprefix("http://").removesuffix("/metrics")], "labels": {"process": name}}
        for name, url in urls.items()
    ]

"""The promises of every runtime, kept by Kubernetes jobs whose trainers are real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kubernetes_cluster import Cluster
from tests.support.kubernetes_node import Node
from tests.support.reaper import Reaper
from tests.workers.runtimes.contract import RuntimeContract


class TestWithRealTrainers(RuntimeContract):
    """The contract, with a node that runs pods as processes."""

    @pytest.fixture(autouse=True)
    def node(self, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Iterator[Node]:
        with Node(cluster, tmp_path_factory.mktemp("n"), reaper) as running:
            yield running

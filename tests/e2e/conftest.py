# SPDX-License-Identifier: Apache-2.0
"""One cluster with two agents for all modules that only send traffic; others make their own.

Each module starts with empty maps and must leave them empty: what it wrote is removed after
its last test, and `pyproxy services` of every node must then list nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.scene import Scene
from tests.lab import leftovers
from tests.lab.cluster import Cluster


@pytest.fixture(scope="session")
def shared() -> Iterator[Scene]:
    """The cluster of the whole run: two nodes, three pods each, an agent a node."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests make network namespaces: run them as root")
    with Cluster() as cluster:
        cluster.respond()
        yield Scene(cluster, cluster.start_agents())
        name = cluster.name
    assert leftovers.traces(name) == []


@pytest.fixture(scope="module")
def scene(shared: Scene) -> Iterator[Scene]:
    """The shared cluster, emptied again when the module is done."""
    yield shared
    shared.clear()


@pytest.fixture(scope="module")
def own() -> Iterator[Scene]:
    """A cluster of the module's own, for tests that stop agents or take programs away."""
    with Cluster(nodes=2, pods_per_node=2) as cluster:
        cluster.respond()
        yield Scene(cluster, cluster.start_agents())
        name = cluster.name
    assert leftovers.traces(name) == []

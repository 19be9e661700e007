# SPDX-License-Identifier: Apache-2.0
"""One cluster with two agents for all modules that only send traffic; others make their own.

Each module starts with empty maps and must leave them empty: what it wrote is removed after
its last test, and `pyproxy services` of every node must then list nothing.

What uses an agent's translation runs once for every --socket-translation that is given: `all`
(the default), `host`, or both. Tests marked `once` run for the first one only: all of their
clients are outside of the agents' cgroups, so that the setting does not concern them.

With --kubeconfig the tests marked `anywhere` run in a real cluster, on whose nodes pyproxy runs
with the --socket-translation that is given; all others need the lab and are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e.realscene import RealScene
from tests.e2e.scene import App, Scene, dangling, running
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.realcluster import IMAGE, real_cluster

OPTION = "--socket-translation"
TRANSLATIONS = ("all", "host")
MakeCluster: TypeAlias = Callable[..., Cluster]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --socket-translation, --kubeconfig and --image."""
    parser.addoption(
        OPTION,
        action="append",
        choices=TRANSLATIONS,
        help="what the agents run with (default: all); give it twice for both, one after the other",
    )

    parser.addoption("--kubeconfig", type=Path, help="run in this cluster, by kubectl")
    parser.addoption("--image", default=IMAGE, help=f"of the tests' pods there ({IMAGE})")


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line("markers", "once: does not depend on --socket-translation")
    config.addinivalue_line("markers", "anywhere: runs in a real cluster, too (--kubeconfig)")
    config.addinivalue_line("markers", "lab: not in a real cluster, though its file does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the lab where there is none."""
    if not config.getoption("--kubeconfig", default=None):
        return
    chosen = [
        item
        for item in items
        if item.get_closest_marker("anywhere") and not item.get_closest_marker("lab")
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever uses `translation` for each one that is asked for, the cluster included."""
    if "translation" in metafunc.fixturenames:
        wanted = metafunc.config.getoption(OPTION, default=None) or TRANSLATIONS[:1]
        if metafunc.definition.get_closest_marker("once"):
            wanted = wanted[:1]
        metafunc.parametrize("translation", wanted, indirect=True, scope="session")


@pytest.fixture(scope="session")
def translation(request: pytest.FixtureRequest) -> str:
    """The --socket-translation of all agents."""
    value: str = request.param
    return value


@pytest.fixture(scope="session")
def make_cluster(translation: str) -> MakeCluster:
    """Cluster, whose agents have the --socket-translation under test."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests make network namespaces: run them as root")
    return partial(Cluster, options=(f"{OPTION}={translation}",))


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, translation: str) -> Iterator[Scene]:
    """The cluster of the whole run: two nodes, three pods each, an agent a node."""
    kubeconfig = request.config.getoption("--kubeconfig", default=None)
    if kubeconfig:
        with real_cluster(kubeconfig, request.config.getoption("--image")) as real:
            yield RealScene(real, translation)
        return
    make_cluster: MakeCluster = request.getfixturevalue("make_cluster")
    with running(make_cluster(), translation) as found:
        yield found


@pytest.fixture(scope="module")
def scene(shared: Scene) -> Iterator[Scene]:
    """The shared cluster, emptied again when the module is done."""
    yield shared
    shared.clear()


@pytest.fixture(scope="session")
def spare(make_cluster: MakeCluster, translation: str) -> Iterator[Scene]:
    """Another cluster, whose agents may be stopped."""
    with running(make_cluster(nodes=2, pods_per_node=2), translation) as found:
        yield found


@pytest.fixture(scope="module")
def own(spare: Scene) -> Iterator[Scene]:
    """The cluster for tests that stop agents, with agents that run and maps that are empty."""
    yield spare
    for agent in spare.agents:
        if not agent.running:
            agent.start()
    for agent in spare.agents:
        assert dangling(agent) == [], f"what leads nowhere on {agent.node.name}"
    spare.clear()


@pytest.fixture(scope="module")
def web(own: Scene) -> App:
    """An application on all pods of the module's own cluster."""
    app = own.app("web")
    own.run(app, own.cluster.pods)
    return app


@pytest.fixture
def agent(own: Scene) -> Iterator[Agent]:
    """The agent of node1; it runs again after the test, as it did before."""
    agent = own.agents[0]
    program, options = agent.program, agent.options
    yield agent
    if (agent.program, agent.options) != (program, options):
        agent.program, agent.options = program, options
        agent.restart()
    elif not agent.running:
        agent.start()

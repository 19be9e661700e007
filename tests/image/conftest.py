# SPDX-License-Identifier: Apache-2.0
"""The image that scripts/test image has built, and a cluster whose agents run in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.scene import App, Scene
from tests.image.agents import ImageAgent
from tests.image.built import Image, built
from tests.lab import leftovers
from tests.lab.cluster import Cluster

FORWARD_ACCEPT = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\nforwardAccept: true\n"


@pytest.fixture(scope="session")
def image() -> Image:
    """The image."""
    found = built()
    if found is None:
        pytest.fail("no image was built: run scripts/test image (after --, arguments for pytest)")
    return found


@pytest.fixture(scope="session")
def scene(image: Image) -> Iterator[Scene]:
    """A cluster with an agent a node: the first compiles, the second loads what that one kept."""
    with Cluster(nodes=2, pods_per_node=1) as cluster:
        cluster.respond()
        settings = cluster.directory / "settings.yaml"
        settings.write_text(FORWARD_ACCEPT, encoding="utf-8")
        options = (f"--pyproxy-config={settings}",)
        agents = [ImageAgent(image, cluster, node, options) for node in cluster.nodes]
        for agent in agents:
            agent.start()
        yield Scene(cluster, [*agents])
    assert leftovers.traces(cluster.name) == []


@pytest.fixture(scope="session")
def agents(scene: Scene) -> list[ImageAgent]:
    """Its agents."""
    return [agent for agent in scene.agents if isinstance(agent, ImageAgent)]


@pytest.fixture(scope="session")
def web(scene: Scene) -> App:
    """An application on all pods."""
    app = scene.app("web")
    scene.run(app, scene.cluster.pods)
    return app

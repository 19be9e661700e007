# SPDX-License-Identifier: Apache-2.0
"""Datagrams that are larger than any device's MTU, on every way to a service, there and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab.hosts import Host, await_ready
from tests.lab.manifests import service
from tests.lab.waiting import wait_for

SERVER_PORT, NODE_PORT = 7779, 31_190
SIZES = "2000,4000,60000"
WAYS = (
    "outside-elsewhere",
    "outside-here",
    "pod-elsewhere",
    "pod-here",
    "itself",
    "pod-node-port",
    "node",
)


@pytest.fixture(scope="module")
def far(scene: Scene) -> Host:
    """A pod of the second node."""
    return scene.cluster.nodes[1].pods[2]


@pytest.fixture(scope="module")
def app(scene: Scene, far: Host) -> Iterator[App]:
    """An application of one pod that gives datagrams back."""
    server = far.python("datagrams.py", "serve", str(SERVER_PORT))
    await_ready(server, far.name)
    made = scene.app("large")
    port = {
        "name": "dns", "port": 53, "protocol": "UDP",
        "targetPort": SERVER_PORT, "nodePort": NODE_PORT,
    }  # fmt: skip
    slices = [made.slice(family, [far], number=SERVER_PORT) for family in FAMILIES]
    scene.put("large.json", service(made.name, made.addresses, [port], type="NodePort"), *slices)
    yield made
    scene.drop("large.json")
    server.kill()
    server.wait(10)


def way(scene: Scene, app: App, far: Host, name: str, family: int) -> tuple[Host, str, int]:
    """Return who asks what."""
    one, two = scene.cluster.nodes
    to = app.address(family)
    return {
        "outside-elsewhere": (scene.cluster.client, one.address(family), NODE_PORT),
        "outside-here": (scene.cluster.client, two.address(family), NODE_PORT),
        "pod-elsewhere": (one.pods[0], to, 53),
        "pod-here": (two.pods[0], to, 53),
        "itself": (far, to, 53),
        "pod-node-port": (one.pods[0], two.address(family), NODE_PORT),
        "node": (one, to, 53),
    }[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", WAYS)
def test_sequence_large_requests(scene: Scene, app: App, far: Host, family: int, name: str) -> None:
    """2,000, 4,000 and 60,000 bytes go and come, as they were, from the service's address."""
    client, to, port = way(scene, app, far, name, family)
    script = ("datagrams.py", "ask", to, str(port))
    wait_for(lambda: client.script(*script, "1").returncode == 0, 5, "an answer")
    for _ in range(3):
        done = client.script(*script, SIZES)
        assert (done.stderr, done.returncode) == ("", 0)

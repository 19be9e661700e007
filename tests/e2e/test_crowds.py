# SPDX-License-Identifier: Apache-2.0
"""Many connections through one node's address to one backend elsewhere, and much data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.scene import FAMILIES, App, Scene, counters
from tests.lab.hosts import Host, await_ready
from tests.lab.manifests import service
from tests.lab.prober import tcp
from tests.lab.waiting import wait_for

CROWD = 2_000
BULK = 200_000_000
NODE_PORT, ECHO_PORT = 31_180, 7778
PATHS = ("outside-elsewhere", "outside-here", "pod-elsewhere", "pod-here", "pod-node-port", "node")


@pytest.fixture(scope="module")
def far(scene: Scene) -> Host:
    """A pod of the second node; clients ask the first one."""
    return scene.cluster.nodes[1].pods[2]


def written(scene: Scene, name: str, pod: Host, target: int) -> App:
    """Write a service with a NodePort and one pod."""
    made = scene.app(name)
    port = {"name": "web", "port": 80, "targetPort": target, "nodePort": NODE_PORT}
    slices = [made.slice(family, [pod], number=target) for family in FAMILIES]
    scene.put(f"{name}.json", service(made.name, made.addresses, [port], type="NodePort"), *slices)
    return made


@pytest.fixture
def crowded(scene: Scene, far: Host) -> Iterator[None]:
    """An application that answers."""
    written(scene, "crowded", far, 8080)
    yield
    scene.drop("crowded.json")


@pytest.fixture
def echo(scene: Scene, far: Host) -> Iterator[App]:
    """An application that gives back what it gets."""
    server = far.python("echo.py", "serve", str(ECHO_PORT))
    await_ready(server, far.name)
    yield written(scene, "echoing", far, ECHO_PORT)
    scene.drop("echoing.json")
    server.kill()
    server.wait(10)


@pytest.mark.once
@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_at_once_through_source_nat(scene: Scene, family: int) -> None:
    """All are open together, each with a source port of its own; nothing is lost."""
    node = scene.cluster.nodes[0]
    to = tcp(node.address(family), NODE_PORT, timeout_s=10.0)
    wait_for(lambda: not scene.cluster.client.prober.once(to).error, 5, "an answer")
    before = counters(scene.agents[0], family)
    outcomes = scene.cluster.client.prober.crowd(to, CROWD)
    assert {(o.error, o.step) for o in outcomes} == {("", "")}
    assert len({o.seen for o in outcomes}) == CROWD
    grown = counters(scene.agents[0], family) - before
    assert grown["packet_source"] >= CROWD
    assert grown["source_exhausted"] == grown["table_full"] == 0


def paths(scene: Scene, app: App, family: int) -> dict[str, tuple[Host, str, int]]:
    """Return who asks what, by name: each way on which a service is reached.

    The backend is a pod of the second node.
    """
    one, two = scene.cluster.nodes
    cluster_ip = app.address(family)
    return {
        "outside-elsewhere": (scene.cluster.client, one.address(family), NODE_PORT),
        "outside-here": (scene.cluster.client, two.address(family), NODE_PORT),
        "pod-elsewhere": (one.pods[0], cluster_ip, 80),
        "pod-here": (two.pods[0], cluster_ip, 80),
        "pod-node-port": (one.pods[0], two.address(family), NODE_PORT),
        "node": (one, cluster_ip, 80),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_much_data_both_ways(scene: Scene, echo: App, family: int, path: str) -> None:
    """200 MB go and come at the same time, byte for byte."""
    client, to, port = paths(scene, echo, family)[path]
    script = ("echo.py", "ask", to, str(port))
    wait_for(lambda: client.script(*script, "1").returncode == 0, 5, "the echo to answer")
    done = client.script(*script, str(BULK))
    assert (done.stderr, done.returncode) == ("", 0)

# SPDX-License-Identifier: Apache-2.0
"""Which way a client's traffic goes: sockets in the agent's cgroup or packets; the maps tell."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.scene import App, Scene, counters
from tests.lab.hosts import Host, Pod
from tests.lab.prober import Target, answered

DRAWS = 10
PLACES = ("same-node", "other-node", "itself")
KINDS = ("tcp", "udp-sendto", "udp-connected")


def _client(scene: Scene) -> Pod:
    return scene.cluster.nodes[0].pods[0]


@pytest.fixture(scope="module", params=PLACES)
def backend(request: pytest.FixtureRequest, scene: Scene) -> Pod:
    """Where the only backend is, seen from the client."""
    here, there = scene.cluster.nodes
    place: str = request.param
    return {"same-node": here.pods[1], "other-node": there.pods[0], "itself": here.pods[0]}[place]


@pytest.fixture(scope="module")
def app(scene: Scene, backend: Pod) -> App:
    """An application of one pod."""
    made = scene.app("one")
    scene.run(made, [backend])
    return made


@pytest.fixture(params=(4, 6))
def family(request: pytest.FixtureRequest) -> int:
    """Of the service's address."""
    number: int = request.param
    return number


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, app: App, family: int) -> Target:
    """The service by each kind of socket."""
    kind: str = request.param
    return app.tcp(family) if kind == "tcp" else app.udp(family, connected=kind == "udp-connected")


def _counted(scene: Scene, client: Host, target: Target, backend: Pod) -> Counter[str]:
    """Draw, expect an answer to each, and return what node1 has counted meanwhile."""
    before = counters(scene.agents[0], target.family)
    outcomes = client.prober.draw(target, DRAWS)
    assert answered(outcomes) == {backend.name: DRAWS}
    expected = _as_seen(scene, backend) if client is not _client(scene) else None
    if expected:
        assert {o.seen.split()[0] for o in outcomes} == {expected[target.family]}
    return counters(scene.agents[0], target.family) - before


def _as_seen(scene: Scene, backend: Pod) -> dict[int, str]:
    """Return the addresses a backend sees: the client's own, but its node's if it is itself."""
    client, net = _client(scene), scene.cluster.plan.nodes[0]
    if backend is client:
        return {4: net.gateway4, 6: net.gateway6}
    return {4: client.ipv4, 6: client.ipv6}


def test_sockets_outside_of_the_cgroup_go_by_packets(
    scene: Scene, target: Target, backend: Pod
) -> None:
    """Each connection opens an entry, packets are translated both ways, no socket hook acts."""
    free = scene.cluster.free(_client(scene))
    counted = _counted(scene, free, target, backend)
    # a UDP socket may get a port that an earlier one had, and then goes on with its entry
    assert counted["packet_open"] in range(DRAWS - 2, DRAWS + 1)
    assert counted["packet_in"] >= DRAWS
    assert counted["packet_out"] >= DRAWS
    assert (counted["connect"], counted["sendmsg"]) == (0, 0)


def test_sockets_in_the_cgroup_go_as_the_setting_says(
    scene: Scene, target: Target, backend: Pod
) -> None:
    """With `all` a pod's sockets are translated and no packet; with `host` it is the reverse."""
    client = _client(scene)
    counted = _counted(scene, client, target, backend)
    by_sockets, by_packets = counted["connect"] + counted["sendmsg"], counted["packet_in"]
    if scene.by_packets(client):
        assert by_sockets == 0
        assert by_packets >= DRAWS
    else:
        assert by_sockets == DRAWS
        # a socket may get the port of an earlier test's connection by packets: kept apart (rule 4)
        assert by_packets == 0 or counted["packet_clash"]


def test_a_process_of_the_node_always_goes_by_sockets(
    scene: Scene, target: Target, backend: Pod
) -> None:
    """Its packets pass no device before they are routed."""
    before = counters(scene.agents[0], target.family)
    drawn = scene.cluster.nodes[0].prober.draw(target, DRAWS)
    counted = counters(scene.agents[0], target.family) - before
    assert answered(drawn) == {backend.name: DRAWS}
    assert counted["connect"] + counted["sendmsg"] == DRAWS
    assert (counted["packet_in"], counted["packet_out"]) == (0, 0)

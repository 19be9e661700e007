# SPDX-License-Identifier: Apache-2.0
"""A node's pods on one bridge: the way there passes the node, the way back need not.

Clients are outside of the agents' cgroups but where it says so: everything goes by packets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pyproxy.agent.bridged import LEASE_S
from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene, counters, dangling, running
from tests.e2e.sequences import await_same_socket, client_by, expect_members
from tests.lab.hosts import Host
from tests.lab.prober import Target, answered
from tests.lab.topology import Bridge
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

DRAWS = 10
SOURCE_PORT = 6000
PORTS = itertools.count(7000)
KINDS = ("tcp", "udp-sendto", "udp-connected")


@pytest.fixture(scope="module")
def bridged(make_cluster: MakeCluster) -> Iterator[Scene]:
    """Two nodes with two pods each, bridged."""
    with running(make_cluster(nodes=2, pods_per_node=2, wiring=Bridge())) as found:
        yield found
        for agent in found.agents:
            assert dangling(agent) == []


@pytest.fixture
def client(bridged: Scene) -> Host:
    """A process in a pod of node1, which no agent's cgroup holds."""
    return bridged.cluster.free(bridged.cluster.nodes[0].pods[0])


def _target(app: App, kind: str, family: int) -> Target:
    if kind == "tcp":
        return app.tcp(family)
    return app.udp(family, connected=kind == "udp-connected")


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_02_a_redirect_never_outlives_a_backend(bridged: Scene, family: int) -> None:
    """In-device and out-device are the same, so the node would send its client to the backend.

    After the backend has left, the client must still reach the service, at once. The kernel
    sends an address few redirects, so the client is none of the other tests'.
    """
    here, there = bridged.cluster.nodes
    client, first, second = bridged.cluster.free(here.pods[1]), here.pods[0], there.pods[1]
    app = bridged.app("leaving")
    targets = [_target(app, kind, family) for kind in KINDS]
    bridged.run(app, [first])
    before = counters(bridged.agents[0], family)
    for target in targets:
        assert answered(client.prober.draw(target, DRAWS)) == {first.name: DRAWS}
    assert (counters(bridged.agents[0], family) - before)["packet_redirect"] >= 1
    learnt = client.run("ip", f"-{family}", "route", "get", app.address(family)).stdout
    assert app.address(family) in learnt
    assert "redirect" not in learnt
    bridged.put(f"{app.name}.json", app.service(), *app.slices([second]))
    bridged.await_backends(app, [second])
    for target in targets:
        assert answered(client.prober.draw(target, DRAWS)) == {second.name: DRAWS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["sockets", "packets"])
def test_a_connected_socket_goes_on_when_its_backend_leaves(
    bridged: Scene, family: int, way: str
) -> None:
    """Between two ports of the bridge nobody would tell it; from one port all the time."""
    here, there = bridged.cluster.nodes
    old, new = here.pods[1], there.pods[1]
    app, prober = bridged.app("held"), client_by(way, bridged, here.pods[0]).prober
    to = replace(app.udp(family, connected=True), source_port=SOURCE_PORT, timeout_s=0.5)
    bridged.run(app, [old])
    assert not prober.open("held", to).error
    for pods in ([old], [old, new], [new]):
        bridged.put(f"{app.name}.json", app.service(), *app.slices(pods))
        expect_members(bridged, app, dict.fromkeys(pods, True))
        await_same_socket(prober, "held", to, pods[0].name)
    prober.close("held")
    bridged.drop(f"{app.name}.json")


def translated(scene: Scene, app: App, family: int) -> bool:
    """Return whether connect() in a pod translates a socket of a service with backends there."""
    before = counters(scene.agents[0], family)
    to = replace(app.udp(family, connected=True), source_port=next(PORTS))
    assert not scene.cluster.nodes[0].pods[0].prober.once(to).error
    return (counters(scene.agents[0], family) - before)["connect"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_sockets_are_translated_while_a_port_or_an_agent_is_missing(
    bridged: Scene, family: int
) -> None:
    """What a new pod's device lacks, with nobody to see it appear, must not be relied on."""
    node, agent = bridged.cluster.nodes[0], bridged.agents[0]
    app = bridged.app("relied")
    bridged.run(app, [node.pods[1]])
    assert not translated(bridged, app, family)
    agent.kill()
    try:
        wait_for(lambda: translated(bridged, app, family), 2 * LEASE_S, "sockets to be translated")
    finally:
        agent.start()
        agent.await_synced()
    wait_for(lambda: not translated(bridged, app, family), 5, "packets to be translated")
    node.run("ip", "link", "add", "stranger", "type", "bridge")
    try:
        # a bridge with pods that has no address need not be their gateway
        node.run("ip", "link", "add", "port", "type", "veth", "peer", "name", "away")
        node.run("ip", "link", "set", "port", "master", "stranger")
        wait_for(lambda: translated(bridged, app, family), 5, "sockets to be translated")
    finally:
        node.run("ip", "link", "del", "port")
        node.run("ip", "link", "del", "stranger")
    wait_for(lambda: not translated(bridged, app, family), 5, "packets to be translated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rule_04_a_direct_connection_from_a_services_port(
    bridged: Scene, client: Host, family: int, kind: str
) -> None:
    """What goes past the node's IP layer is not seen begin there, but on its bridge's port."""
    here, there = bridged.cluster.nodes
    app, port = bridged.app("direct"), next(PORTS)
    for backend in (here.pods[1], there.pods[0]):
        bridged.run(app, [backend])
        to = replace(_target(app, kind, family), source_port=port)
        directly = replace(to, address=backend.address(family), port=8080)
        for target in (to, directly, to, directly):
            outcome = client.prober.once(target)
            assert (outcome.error, outcome.who) == ("", backend.name), target
            if kind != "tcp":
                assert outcome.source == f"{target.address} {target.port}"


@pytest.mark.parametrize("place", ["same-bridge", "other-node", "itself"])
def test_packets_of_a_bridged_pod_reach_every_backend(
    bridged: Scene, client: Host, place: str
) -> None:
    """By each kind of socket, in both families; the answer comes from the service."""
    here, there = bridged.cluster.nodes
    backend = {"same-bridge": here.pods[1], "other-node": there.pods[0], "itself": here.pods[0]}
    app = bridged.app("one")
    bridged.run(app, [backend[place]])
    for family in FAMILIES:
        for kind in KINDS:
            target = _target(app, kind, family)
            before = counters(bridged.agents[0], family)
            outcomes = client.prober.draw(target, DRAWS)
            counted = counters(bridged.agents[0], family) - before
            assert answered(outcomes) == {backend[place].name: DRAWS}, target
            assert counted["packet_in"] >= DRAWS
            assert counted["packet_out"] >= DRAWS
            if target.protocol == "udp":
                assert {o.source for o in outcomes} == {app.shown(target)}

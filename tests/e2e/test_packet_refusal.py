# SPDX-License-Identifier: Apache-2.0
"""What is on the wire where nobody may answer a client whose packets are translated."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.e2e.scene import FAMILIES, TCP_PORT, UDP_PORT, App, Scene, counters
from tests.lab.capture import ACK, ICMP, RST, Capture, Packet
from tests.lab.hosts import Host
from tests.lab.manifests import NOT_READY

AT_ONCE_S = 0.1
PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}  # RFC 792, RFC 4443 3.1


@pytest.fixture(scope="module")
def client(scene: Scene) -> Host:
    """A pod's process outside of the agent's cgroup, on a node without endpoints of `local`."""
    return scene.cluster.free(scene.cluster.nodes[1].pods[0])


@pytest.fixture(scope="module")
def idle(scene: Scene) -> App:
    """A service whose only endpoints are not ready."""
    app = scene.app("idle")
    scene.put("idle.json", app.service(), *app.slices(scene.cluster.pods, NOT_READY))
    for family in FAMILIES:
        scene.await_error(scene.cluster.nodes[1], app.tcp(family), "ECONNREFUSED")
        scene.await_error(scene.cluster.nodes[1], app.udp(family), "ECONNREFUSED")
    return app


@pytest.fixture(scope="module")
def local(scene: Scene) -> App:
    """A service of internalTrafficPolicy Local with its only endpoint on node1."""
    app = scene.app("local")
    pods = scene.cluster.nodes[0].pods[:1]
    scene.put("local.json", app.service(internalTrafficPolicy="Local"), *app.slices(pods))
    for family in FAMILIES:
        for to in (app.tcp(family, timeout_s=0.2), app.udp(family, timeout_s=0.2)):
            scene.await_error(scene.cluster.nodes[1], to, "TIMEOUT")
    return app


@pytest.fixture
def wire(client: Host) -> Iterator[Capture]:
    """What passes the client's device."""
    with Capture(client) as capture:
        yield capture


def _asks(packet: Packet, app: App, protocol: int) -> bool:
    return packet.leaves and packet.protocol == protocol and packet.destination in app.addresses


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_without_endpoints_gets_a_reset(
    scene: Scene, idle: App, client: Host, wire: Capture, family: int
) -> None:
    """ECONNREFUSED at once, by a segment that acknowledges the SYN (RFC 9293 3.10.7.1)."""
    before = counters(scene.agents[1], family)
    outcome = client.prober.once(idle.tcp(family))
    assert (outcome.error, outcome.step) == ("ECONNREFUSED", "connect")
    assert outcome.seconds < AT_ONCE_S
    assert (counters(scene.agents[1], family) - before)["packet_refused"] == 1
    syn = wire.find(lambda p: _asks(p, idle, socket.IPPROTO_TCP), "the SYN")
    reset = wire.find(lambda p: p.source in idle.addresses, "an answer")
    assert reset.protocol == socket.IPPROTO_TCP
    assert reset.ports == (TCP_PORT, syn.ports[0])
    assert reset.flags == RST | ACK
    assert reset.sequence == (0, syn.sequence[0] + 1 & 0xFFFFFFFF)
    assert len(reset.payload) == 20
    assert len([p for p in wire.take() if p.source in idle.addresses]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_without_endpoints_gets_port_unreachable(
    scene: Scene, idle: App, client: Host, wire: Capture, family: int
) -> None:
    """ECONNREFUSED at once, by an ICMP error that quotes the datagram as it was sent."""
    before = counters(scene.agents[1], family)
    outcome = client.prober.once(idle.udp(family, connected=True))
    assert (outcome.error, outcome.step) == ("ECONNREFUSED", "recv")
    assert outcome.seconds < AT_ONCE_S
    assert (counters(scene.agents[1], family) - before)["packet_refused"] == 1
    asked = wire.find(lambda p: _asks(p, idle, socket.IPPROTO_UDP), "the datagram")
    assert asked.ports[1] == UDP_PORT
    error = wire.find(lambda p: p.source in idle.addresses, "an answer")
    assert error.protocol == ICMP[family]
    assert error.icmp == PORT_UNREACHABLE[family]
    assert error.payload[8:] == asked.data


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", ["connect", "recv"], ids=["tcp", "udp"])
def test_local_policy_without_local_endpoint_answers_nothing(
    scene: Scene, local: App, wire: Capture, step: str, family: int
) -> None:
    """The packets are dropped and counted, and the wire stays silent."""
    before = counters(scene.agents[1], family)
    if step == "connect":
        number, to = socket.IPPROTO_TCP, local.tcp(family, timeout_s=0.4)
    else:
        number, to = socket.IPPROTO_UDP, local.udp(family, connected=True, timeout_s=0.4)
    outcome = wire.host.prober.once(to)
    assert (outcome.error, outcome.step) == ("TIMEOUT", step)
    assert (counters(scene.agents[1], family) - before)["packet_drop"] >= 1
    wire.find(lambda p: _asks(p, local, number), "the question")
    silent = (number, ICMP[4])
    assert not [p for p in wire.take() if not p.leaves and p.protocol in silent]
    assert not [p for p in wire.packets if p.source in local.addresses]

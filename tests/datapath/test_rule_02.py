# SPDX-License-Identifier: Apache-2.0
"""Rules 2, 10 and 14: redirects, service addresses about to leave, frames that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, ETH_P, PEER_MAC, SYN, End, ether

TCP, UDP = Protocol.TCP, Protocol.UDP
REDIRECT = {Family.IPV4: 5, Family.IPV6: 137}
GROUP_MAC, EVERYBODY = bytes.fromhex("01005e000001"), b"\xff" * 6


@pytest.fixture(params=[Wire.ETHERNET, Wire.BARE], ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of a device, and a service for each protocol."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, request.param, tmp_path) as found:
        yield found


def message(hooks: Hooks, kind: int, about: bytes, *, target: bool = False) -> bytes:
    """Return an ICMP message of the node's to the client about a packet.

    A redirect of IPv6 may name the target's link-layer address first (RFC 4861 4.5).
    """
    family = hooks.family
    src, dst = node_address(family), client(family).address
    head = p.PLAIN if hooks.wire is Wire.ETHERNET else p.PLAIN._replace(options=b"\x01" * 4)
    if family is Family.IPV4:
        return p.icmp(src, dst, kind, 0, bytes(4) + about[:28], head=head)
    if kind != REDIRECT[family]:
        return p.icmp(src, dst, kind, 4, bytes(4) + about)
    cut = about[: len(about) // 8 * 8]
    option = bytes((2, 1, *PEER_MAC)) if target else b""
    option += bytes((4, 1 + len(cut) // 8, *bytes(6))) + cut
    ends = backend(family).address + dst
    return p.icmp(src, dst, kind, 0, bytes(4) + ends + option)


@pytest.mark.kernel
@pytest.mark.parametrize("target", [False, True])
def test_rule_02_a_redirect_about_a_translated_packet_is_dropped(
    hooks: Hooks, protocol: Protocol, target: bool
) -> None:
    """The client would send the service's packets to the backend's wire for minutes."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    about = hooks.ingress(hooks.first(protocol, c, f)).data
    assert about == hooks.first(protocol, c, b)
    packet = message(hooks, REDIRECT[family], about, target=target)
    with hooks.node.counting(family, packet_redirect=1):
        assert hooks.egress(packet) == dropped(packet)


def test_rule_02_other_redirects_pass(hooks: Hooks, protocol: Protocol) -> None:
    """A redirect about a packet that was not translated is right."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    about = hooks.ingress(hooks.first(protocol, c, f)).data
    other = hooks.first(protocol, client(family, port=40_001), b)
    another = hooks.first(protocol, c, backend(family, 2))
    sctp = p.ip(c.address, b.address, p.SCTP, about[-40:])
    for packet in (
        message(hooks, REDIRECT[family], other),
        message(hooks, REDIRECT[family], another),
        message(hooks, REDIRECT[family], sctp),
        message(hooks, REDIRECT[family], bytes(16)),
    ):
        with hooks.node.counting(family):
            assert hooks.egress(packet) == passed(packet)


def test_rule_02_a_redirect_about_a_fragment_passes(hooks: Hooks, protocol: Protocol) -> None:
    """It names no ports: what stands in their place is not taken for any."""
    family = hooks.family
    if family is Family.IPV6:
        return  # a fragment's next header is another one
    # the first two words of the header below, read as ports, are this connection's
    c, b = client(family, port=0x4500 | p.PLAIN.tos), backend(family)
    hooks.ingress(hooks.first(protocol, c, frontend(family)))
    head = p.PLAIN._replace(fragment=0x2000)
    about = p.ip(c.address, b.address, protocol, bytes(b.port - 20), head)
    packet = message(hooks, REDIRECT[family], about)
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)


def test_rule_02_redirects_of_others_come_in(hooks: Hooks) -> None:
    """What a router tells this node is not ours to judge."""
    family = hooks.family
    about = hooks.ingress(hooks.tcp(client(family), frontend(family), SYN)).data
    packet = message(hooks, REDIRECT[family], about)
    assert hooks.ingress(packet) == passed(packet)


def test_rule_10_a_service_address_does_not_leave(hooks: Hooks, protocol: Protocol) -> None:
    """Nobody beyond knows a ClusterIP: what is untranslated at egress is dropped and counted."""
    family = hooks.family
    packets = [hooks.first(protocol, client(family), frontend(family))]
    if protocol is TCP:
        packets.append(hooks.tcp(client(family), frontend(family), ACK))
    for packet in packets:
        with hooks.node.counting(family, packet_leak=1):
            assert hooks.egress(packet) == dropped(packet)
    elsewhere = hooks.first(protocol, client(family), frontend(family, port=81))
    with hooks.node.counting(family):
        assert hooks.egress(elsewhere) == passed(elsewhere)


@pytest.mark.parametrize("kind", [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER])
def test_rule_10_other_kinds_of_frontends_may_leave(
    hooks: Hooks, protocol: Protocol, kind: Kind
) -> None:
    """Their addresses are known outside of the cluster, where others may answer for them."""
    family = hooks.family
    hooks.write_frontend(frontend(family, 5), protocol, kind)
    packet = hooks.first(protocol, client(family), frontend(family, 5))
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)


@pytest.mark.parametrize("mac", [PEER_MAC, GROUP_MAC, EVERYBODY], ids=["host", "group", "all"])
def test_rule_14_frames_for_others(hooks: Hooks, protocol: Protocol, mac: bytes) -> None:
    """What a promiscuous device sees besides its own neither comes in nor is a leak."""
    if hooks.wire is Wire.BARE:
        return  # no address, no other one's
    family = hooks.family
    first = hooks.first(protocol, client(family), frontend(family))
    frame = ether(first, ETH_P[family], dst=mac)
    with hooks.node.counting(family):
        assert hooks.frame("ingress", frame) == passed(frame)
        assert hooks.frame("egress", frame) == passed(frame)
    assert not hooks.table.claimed()


def test_rule_14_nor_do_they_join_a_connection(hooks: Hooks, protocol: Protocol) -> None:
    """A foreign frame of a connection that there is stays as it is as well."""
    if hooks.wire is Wire.BARE:
        return
    family = hooks.family
    c, f = client(family), frontend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    frame = ether(hooks.first(protocol, c, f), ETH_P[family], dst=PEER_MAC)
    assert hooks.frame("ingress", frame) == passed(frame)


def test_rule_10_direct_connections_are_no_leak(hooks: Hooks, protocol: Protocol) -> None:
    """What goes to a backend is addressed to it."""
    family = hooks.family
    packet = hooks.first(protocol, client(family), End(backend(family).address, 80))
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)

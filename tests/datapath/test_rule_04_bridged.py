# SPDX-License-Identifier: Apache-2.0
"""Rule 4 between two ports of a bridge, where frames are for neither this node nor its address.

Their answers pass the port of the client, where they are told from a service's only by what the
client sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, ETH_P, PEER_MAC, SYN, End, ether

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a bridge's port, and a service for each protocol."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device()
        yield found


def bridged(hooks: Hooks, packet: bytes) -> bytes:
    """Return a packet in a frame for another port."""
    return ether(packet, ETH_P[hooks.family], dst=PEER_MAC)


def taken(hooks: Hooks, protocol: Protocol) -> None:
    """Let a client's connection to the service be there."""
    hooks.ingress(hooks.first(protocol, client(hooks.family), frontend(hooks.family)))


@pytest.mark.kernel
def test_rule_04_a_bridged_connection_gets_another_port(hooks: Hooks, protocol: Protocol) -> None:
    """From its first frame to its last, and its answers find back."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    taken(hooks, protocol)
    before = hooks.node.counters(family)
    after = hooks.frame("ingress", bridged(hooks, hooks.first(protocol, c, b)))
    grown = hooks.grown(before)
    (direct,) = [each for each in hooks.table.records() if not each.service]
    other = direct.inner
    assert other.port != c.port
    assert after == passed(bridged(hooks, hooks.first(protocol, other, b)))
    assert grown == {"packet_open": 1, "packet_in": 1, "packet_clash": 1}
    answer = hooks.answer(protocol, b, other)
    assert hooks.egress(answer) == passed(hooks.answer(protocol, b, c))
    further = bridged(hooks, hooks.further(protocol, c, b))
    assert hooks.frame("ingress", further) == passed(
        bridged(hooks, hooks.further(protocol, other, b))
    )
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))


def test_rule_14_on_a_wire_that_others_share_it_is_theirs(hooks: Hooks, protocol: Protocol) -> None:
    """Whatever an uplink sees of another node's, or a device that nothing is known of."""
    family = hooks.family
    taken(hooks, protocol)
    frame = bridged(hooks, hooks.first(protocol, client(family), backend(family)))
    hooks.write_device(node_address(family), UPLINK)
    with hooks.node.counting(family):
        assert hooks.frame("ingress", frame) == passed(frame)
    hooks.path.write_devices({})
    with hooks.node.counting(family):
        assert hooks.frame("ingress", frame) == passed(frame)


@pytest.mark.parametrize("mac", [bytes.fromhex("01005e000001"), b"\xff" * 6], ids=["group", "all"])
def test_rule_14_what_is_for_several_is_nobodys(
    hooks: Hooks, protocol: Protocol, mac: bytes
) -> None:
    """A bridge sends it to all of its ports: its answers are none of a connection's."""
    family = hooks.family
    taken(hooks, protocol)
    packet = hooks.first(protocol, client(family), backend(family))
    frame = ether(packet, ETH_P[family], dst=mac)
    with hooks.node.counting(family):
        assert hooks.frame("ingress", frame) == passed(frame)


def test_rule_14_others_are_left_alone(hooks: Hooks, protocol: Protocol) -> None:
    """What begins nothing, is from another port, or is for a service by somebody else's way."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    taken(hooks, protocol)
    packets = [
        hooks.first(protocol, c._replace(port=c.port + 1), b),
        hooks.first(protocol, c, End(b.address, b.port + 1)),
        hooks.first(protocol, c, f),
        hooks.first(protocol, c._replace(port=c.port + 1), f),
        hooks.answer(protocol, b, c),
    ]
    if protocol is TCP:
        packets.append(hooks.tcp(c, b, ACK))
    for packet in packets:
        frame = bridged(hooks, packet)
        with hooks.node.counting(family):
            assert hooks.frame("ingress", frame) == passed(frame)
    assert len(hooks.table.claimed()) == 1


@pytest.mark.parametrize("answers", [False, True], ids=["client", "backend"])
def test_rule_04_an_older_bridged_connection_goes_on(hooks: Hooks, answers: bool) -> None:
    """Where clients are hidden from a pod on their bridge: the service's gives up the port."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.configure(options=Options("here", masquerade_all=True))
    hooks.write_device(node_address(family))
    inside = hooks.ingress(hooks.tcp(c, f, SYN))
    hooks.egress(inside.data)
    source = hooks.table.only().source
    hooks.egress(hooks.ingress(hooks.tcp(b, source, SYN | ACK)).data)
    hooks.ingress(hooks.tcp(c, f, ACK))
    for ends in ((b, c), (c, b)) if answers else ((c, b), (b, c)):
        direct = bridged(hooks, hooks.tcp(*ends, ACK))
        assert hooks.frame("ingress", direct) == passed(direct)
        assert hooks.frame("egress", direct) == passed(direct)
    other = hooks.table.only().inner
    assert other.port != c.port
    assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(other, b, ACK))
    assert hooks.egress(hooks.tcp(other, b, ACK)) == passed(hooks.tcp(source, b, ACK))

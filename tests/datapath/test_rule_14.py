# SPDX-License-Identifier: Apache-2.0
"""Rule 14 at a bridge's port: what is for the bridge is for this node, as early as it comes in.

At the port such a frame looks as if it were for somebody else. The bridge would say that it is its
own, but only after netfilter's PREROUTING has seen it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import PORT, DeviceFacts
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ETH_P, ether
from tests.datapath.pieces import cut

BRIDGE = bytes.fromhex("0a58c0a80001")
OTHERS = [BRIDGE[:at] + bytes([BRIDGE[at] ^ 4]) + BRIDGE[at + 1 :] for at in range(len(BRIDGE))]
LONG = bytes(range(256)) * 4


@pytest.fixture
def port(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a bridge's port, and a service for each protocol."""
    for protocol in (Protocol.TCP, Protocol.UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        write(found, PORT)
        yield found


def write(hooks: Hooks, flags: int) -> None:
    """Say what the device is."""
    none = bytes(hooks.family.address_bytes)
    hooks.path.write_devices({hooks.ifindex: DeviceFacts(none, flags, bridge=BRIDGE)})


def to(address: bytes, packet: bytes, family: Family) -> bytes:
    """Return a packet in a frame to a link-layer address."""
    return ether(packet, ETH_P[family], dst=address)


@pytest.mark.kernel
def test_rule_14_what_is_for_the_bridge(port: Hooks, protocol: Protocol) -> None:
    """It is translated at the port, the whole connection."""
    family = port.family
    c, f, b = client(family), frontend(family), backend(family)
    with port.node.counting(family, packet_in=2, packet_open=1):
        for make in (port.first, port.further):
            after = port.frame("ingress", to(BRIDGE, make(protocol, c, f), family))
            assert after == passed(to(BRIDGE, make(protocol, c, b), family))
    assert port.egress(port.answer(protocol, b, c)) == passed(port.answer(protocol, f, c))


@pytest.mark.parametrize("mac", OTHERS, ids=range(len(OTHERS)))
def test_rule_14_each_byte_counts(port: Hooks, mac: bytes) -> None:
    """A frame to any other address is bridged, and none of ours."""
    family = port.family
    frame = to(mac, port.first(Protocol.TCP, client(family), frontend(family)), family)
    with port.node.counting(family):
        assert port.frame("ingress", frame) == passed(frame)
    assert not port.table.claimed()


def test_rule_14_a_device_that_is_no_port(port: Hooks, protocol: Protocol) -> None:
    """There it would be for another host; so it is where nothing is known of the device."""
    family = port.family
    frame = to(BRIDGE, port.first(protocol, client(family), frontend(family)), family)
    write(port, 0)
    with port.node.counting(family):
        assert port.frame("ingress", frame) == passed(frame)
    port.path.write_devices({})
    with port.node.counting(family):
        assert port.frame("ingress", frame) == passed(frame)


def test_rule_14_fragments_for_the_bridge(port: Hooks) -> None:
    """All pieces of a datagram go the same way, and those to others none of it."""
    family = port.family
    c, f, b = client(family), frontend(family), backend(family)
    pieces = cut(port.udp(c, f, LONG), 512)
    expected = cut(port.udp(c, b, LONG), 512)
    for mac in (OTHERS[0], BRIDGE):
        for piece, translated in zip(pieces, expected, strict=True):
            after = port.frame("ingress", to(mac, piece, family))
            assert after == passed(to(mac, translated if mac == BRIDGE else piece, family))

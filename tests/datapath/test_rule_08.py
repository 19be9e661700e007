# SPDX-License-Identifier: Apache-2.0
"""Rule 8: the source is chosen where packets leave, by the next hop, and goes with its address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK, NodeAddressFlag
from pyproxy.kernel.connections import Life
from pyproxy.kernel.hops import Way
from pyproxy.model import Family, Prefix, Protocol
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import ESTABLISHED
from tests.datapath.hooks import LOOPBACK, Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP
SOURCE = Life.SOURCE_WANTED | Life.SOURCE_READY


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink with an address that the node has; backends 1 and 2 elsewhere."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]), plan(family, protocol, 2, [2]))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        has(found, 1)
        yield found
        found.path.write_addresses({})
        found.path.write_hop_sources({})


def has(hooks: Hooks, *numbers: int, flags: NodeAddressFlag = NodeAddressFlag.PORTS) -> None:
    """Give the node these addresses and no others."""
    wanted = {node_address(hooks.family, n): flags for n in numbers}
    hooks.path.write_addresses(wanted)


def inside(hooks: Hooks, protocol: Protocol, number: int = 1) -> bytes:
    """Begin a connection to a service; return its first packet as it is about to leave."""
    first = hooks.first(protocol, client(hooks.family), frontend(hooks.family, number))
    return hooks.ingress(first).data


def established(hooks: Hooks) -> bytes:
    """Begin a TCP connection that goes on; return a packet in mid-stream, about to leave."""
    hooks.egress(inside(hooks, TCP))
    hooks.table.set_life(hooks.table.only().number, ESTABLISHED | SOURCE, 0)
    return hooks.ingress(hooks.tcp(client(hooks.family), frontend(hooks.family), ACK)).data


def bits(family: Family) -> int:
    """Return how many bits an address has."""
    return 8 * family.address_bytes


def test_the_address_follows_the_next_hop(hooks: Hooks, protocol: Protocol) -> None:
    """Of a device with several addresses; a way of another device says nothing."""
    family = hooks.family
    to_second = Prefix(backend(family, 2).address, bits(family))
    everywhere = Prefix(bytes(family.address_bytes), 0)
    hooks.path.write_hop_sources(
        {
            Way(LOOPBACK, to_second): node_address(family, 2),
            Way(LOOPBACK + 1, everywhere): node_address(family, 3),
        }
    )
    found = {}
    for number in (1, 2):
        hooks.egress(inside(hooks, protocol, number))
        (record,) = [r for r in hooks.table.records() if r.frontend == frontend(family, number)]
        found[number] = record.source.address
    assert found == {1: node_address(family, 1), 2: node_address(family, 2)}


def test_an_address_that_the_node_keeps(hooks: Hooks) -> None:
    """Others come and go: the connection is looked at once, and goes on."""
    packet = established(hooks)
    source = hooks.table.only().source
    expected = passed(hooks.tcp(source, backend(hooks.family), ACK))
    has(hooks, 1, 2)
    assert hooks.egress(packet) == expected
    # whether NodePorts are served on it is another matter
    has(hooks, 1, flags=NodeAddressFlag(0))
    with hooks.node.counting(hooks.family, packet_out=2):
        assert hooks.egress(packet) == expected
        assert hooks.egress(packet) == expected


def test_a_connection_ends_with_its_address(hooks: Hooks) -> None:
    """Nothing leads to it any more, and its packets do not leave with the client's address."""
    packet = established(hooks)
    hooks.write_device(node_address(hooks.family, 2), UPLINK)
    has(hooks, 2)
    with hooks.node.counting(hooks.family):
        assert hooks.egress(packet) == dropped(packet)
    assert not hooks.table.entries()
    assert not hooks.table.claimed()


def test_a_client_that_waits_for_an_answer_gets_another_address(
    hooks: Hooks, protocol: Protocol
) -> None:
    """A SYN that is sent again, a datagram: what answers the former address is nobody's."""
    family = hooks.family
    packet = inside(hooks, protocol)
    hooks.egress(packet)
    old = hooks.table.only().source
    hooks.write_device(node_address(family, 2), UPLINK)
    has(hooks, 2)
    with hooks.node.counting(family, packet_source=1, packet_out=1):
        left = hooks.egress(packet)
    new = hooks.table.only().source
    assert new.address == node_address(family, 2)
    assert left == passed(hooks.first(protocol, new, backend(family)))
    assert len(hooks.table.entries()) == 4
    answer = hooks.answer(protocol, backend(family), old)
    assert hooks.ingress(answer) == passed(answer)
    answer = hooks.answer(protocol, backend(family), new)
    assert hooks.ingress(answer) == passed(hooks.answer(protocol, backend(family), client(family)))


def test_a_datagram_goes_on_after_answers_too(hooks: Hooks) -> None:
    """UDP has no connection that its backend knows."""
    family = hooks.family
    packet = inside(hooks, UDP)
    hooks.egress(packet)
    record = hooks.table.only()
    hooks.table.set_life(record.number, ESTABLISHED | Life.UDP | SOURCE, 0)
    hooks.write_device(node_address(family, 2), UPLINK)
    has(hooks, 2)
    hooks.egress(packet)
    assert hooks.table.only().source.address == node_address(family, 2)


def test_a_route_that_changes_keeps_the_address(hooks: Hooks) -> None:
    """It is still the node's, though the device that packets leave by now has another."""
    packet = established(hooks)
    source = hooks.table.only().source
    has(hooks, 1, 2)
    hooks.write_device(node_address(hooks.family, 2), UPLINK)
    has(hooks, 1)
    assert hooks.egress(packet) == passed(hooks.tcp(source, backend(hooks.family), ACK))


def test_the_nodes_own_goes_on(hooks: Hooks) -> None:
    """What was given another port (rule 9) has the node's address too."""
    family = hooks.family
    hooks.egress(inside(hooks, TCP))
    own = hooks.tcp(End(node_address(family), hooks.table.only().source.port), backend(family), SYN)
    left = hooks.egress(own)
    has(hooks, 1, 2)
    has(hooks, 1)
    assert hooks.egress(own) == left

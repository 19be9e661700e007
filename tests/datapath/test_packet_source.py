# SPDX-License-Identifier: Apache-2.0
"""Who sees the client, and who an address of this node (parity A9.14, rules 8 and 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NODE, UPLINK, DeviceFacts
from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.tables import PortRange
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Record
from tests.datapath.hooks import LOOPBACK, Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP
ONE_PORT = PortRange(2_000, 1)


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink; services with a backend elsewhere (1) and here (2)."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]), plan(family, protocol, 2, [2], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        yield found


def opened(hooks: Hooks, protocol: Protocol, number: int, port: int = 40_000) -> Record:
    """Begin a connection to a service; return its record."""
    c = client(hooks.family, port=port)
    hooks.ingress(hooks.first(protocol, c, frontend(hooks.family, number)))
    return next(each for each in hooks.table.records() if each.client == c)


@pytest.mark.kernel
def test_an_outside_client_of_a_backend_elsewhere(hooks: Hooks, protocol: Protocol) -> None:
    """Its packets get the node's address where they leave, the answers its own there again."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    before = hooks.node.counters(family)
    inside = hooks.ingress(hooks.first(protocol, c, f))
    assert inside == passed(hooks.first(protocol, c, b))
    left = hooks.egress(inside.data)
    source = hooks.table.only().source
    assert source.address == node_address(family)
    assert left == passed(hooks.first(protocol, source, b))
    assert hooks.egress(inside.data) == left
    assert hooks.grown(before) == {
        "packet_open": 1, "packet_in": 1, "packet_source": 1, "packet_out": 2
    }  # fmt: skip
    back = hooks.ingress(hooks.answer(protocol, b, source))
    assert back == passed(hooks.answer(protocol, b, c))
    assert hooks.egress(back.data) == passed(hooks.answer(protocol, f, c))
    if protocol is TCP:
        data = hooks.ingress(hooks.tcp(c, f, ACK)).data
        assert hooks.egress(data) == passed(hooks.tcp(source, b, ACK))
    assert len(hooks.table.entries()) == 4


def test_a_backend_here_sees_the_client(hooks: Hooks, protocol: Protocol) -> None:
    """Its answers come by this node anyway."""
    record = opened(hooks, protocol, 2)
    assert not record.flags & Life.SOURCE_WANTED
    assert len(hooks.table.entries()) == 2


def test_clients_that_come_by_other_devices_are_seen(hooks: Hooks, protocol: Protocol) -> None:
    """A device that leads to pods brings clients of the cluster."""
    hooks.write_device(node_address(hooks.family))
    assert not opened(hooks, protocol, 1).flags & Life.SOURCE_WANTED
    hooks.path.write_devices({})
    assert not opened(hooks, protocol, 1, 40_001).flags & Life.SOURCE_WANTED


@pytest.mark.parametrize("inside", [True, False])
def test_the_clusters_cidrs_say_who_is_a_client_of_it(
    hooks: Hooks, protocol: Protocol, inside: bool
) -> None:
    """Where they are known devices say nothing (detectLocal: ClusterCIDR)."""
    family = hooks.family
    whole = Prefix(bytes(family.address_bytes), 0)
    bits = 8 * family.address_bytes
    other = Prefix(client(family, 2).address, bits)
    hooks.configure(cidrs=(whole,) if inside else (other,))
    hooks.write_device(node_address(family), UPLINK if inside else 0)
    assert bool(opened(hooks, protocol, 1).flags & Life.SOURCE_WANTED) is not inside
    hooks.configure(cidrs=(Prefix(client(family).address, bits),))
    assert not opened(hooks, protocol, 1, 40_001).flags & Life.SOURCE_WANTED


def test_a_device_without_an_address_uses_the_nodes(hooks: Hooks, protocol: Protocol) -> None:
    """The device's own address comes first, the node's where it has none."""
    family = hooks.family
    none = bytes(family.address_bytes)
    hooks.path.write_devices(
        {
            LOOPBACK: DeviceFacts(none, UPLINK),
            NODE: DeviceFacts(node_address(family, 2), 0),
        }
    )
    inside = hooks.first(protocol, client(family), backend(family))
    opened(hooks, protocol, 1)
    hooks.egress(inside)
    assert hooks.table.only().source.address == node_address(family, 2)


def test_no_address_at_all_drops_and_counts(hooks: Hooks, protocol: Protocol) -> None:
    """Nothing is sent on with an address that answers cannot come back to; a later one may be."""
    family = hooks.family
    hooks.write_device(b"", UPLINK)
    opened(hooks, protocol, 1)
    inside = hooks.first(protocol, client(family), backend(family))
    with hooks.node.counting(family, source_exhausted=1):
        assert hooks.egress(inside) == dropped(inside)
    assert not hooks.table.only().flags & Life.SOURCE_CLAIMED
    hooks.write_device(node_address(family), UPLINK)
    assert hooks.egress(inside).verdict == passed(inside).verdict
    assert hooks.table.only().flags & Life.SOURCE_READY


def test_ports_that_are_all_taken(hooks: Hooks, protocol: Protocol) -> None:
    """A second client of one backend needs another port; it gets it when the first is over."""
    family = hooks.family
    hooks.configure(ports=ONE_PORT)
    hooks.keep_ports(port for port in range(1_024, 65_536) if port != ONE_PORT.first)
    b = backend(family)
    first, second = client(family), client(family, port=40_001)
    for c in (first, second):
        hooks.ingress(hooks.first(protocol, c, frontend(family)))
    sent = [hooks.first(protocol, c, b) for c in (first, second)]
    one = hooks.egress(sent[0])
    assert one == passed(hooks.first(protocol, End(node_address(family), 2_000), b))
    with hooks.node.counting(family, source_exhausted=1):
        assert hooks.egress(sent[1]) == dropped(sent[1])
    old = next(each for each in hooks.table.records() if each.client == first)
    hooks.table.age(old.number, hooks.timeout("tcp_opening" if protocol is TCP else "udp") + 1)
    with hooks.node.counting(family, packet_source=1, packet_out=1):
        assert hooks.egress(sent[1]).data == one.data


def test_a_source_that_somebody_else_is_choosing(hooks: Hooks) -> None:
    """The second of two packets at once is dropped: the client sends it again."""
    family = hooks.family
    record = opened(hooks, TCP, 1)
    inside = hooks.tcp(client(family), backend(family), SYN)
    hooks.table.set_life(record.number, record.flags | Life.SOURCE_CLAIMED, 0)
    with hooks.node.counting(family):
        assert hooks.egress(inside) == dropped(inside)
    hooks.table.set_life(record.number, record.flags, 0)
    with hooks.node.counting(family, packet_source=1, packet_out=1):
        hooks.egress(inside)


def test_ports_are_of_the_range(hooks: Hooks, protocol: Protocol) -> None:
    """First and last port of the range are drawn too, and none beside it."""
    family = hooks.family
    few = PortRange(2_000, 4)
    hooks.configure(ports=few)
    seen = set()
    for number in range(64):
        c = client(family, number + 1)
        b = backend(family, number + 10)
        hooks.node.apply(plan(family, protocol, 1, [b]))
        hooks.egress(hooks.ingress(hooks.first(protocol, c, frontend(family))).data)
        seen.add(next(r for r in hooks.table.records() if r.client == c).source.port)
    assert seen == set(range(2_000, 2_004))

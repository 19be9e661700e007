# SPDX-License-Identifier: Apache-2.0
"""A client goes on while what it asks for passes to another service, or to none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind
from tests.datapath.ends import backend, client, frontend, node_address, packed, plan
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP
NODE_PORT = 31_000
KINDS = [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER, Kind.NODE_PORT]
ONE_IN_A_GUEST = [*KINDS[:-1], pytest.param(KINDS[-1], marks=pytest.mark.kernel)]
OLD, NEW = 1, 2  # services, and their backends


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device of a node that serves NodePorts on its address."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.path.write_addresses({node_address(family): NodeAddressFlag.PORTS})
        yield found
        found.path.write_addresses({})


def asked(family: Family, kind: Kind) -> End:
    """Return what a client dials for a kind of frontend."""
    if kind is Kind.NODE_PORT:
        return End(node_address(family), NODE_PORT)
    return End(packed(family, "203.0.113.7", "2001:db8::7"), 443)


def apply(hooks: Hooks, protocol: Protocol, kind: Kind, owner: int) -> None:
    """Let one of both services have the frontend; each has its own ClusterIP besides."""
    family = hooks.family
    none = bytes(family.address_bytes)
    end = End(none, NODE_PORT) if kind is Kind.NODE_PORT else asked(family, kind)
    plans = [
        plan(family, protocol, n, [n], frontends=[end], kind=kind, local=1)
        if n == owner
        else plan(family, protocol, n, [n], local=1)
        for n in (OLD, NEW)
    ]
    hooks.node.apply(*plans)


@pytest.mark.parametrize("kind", ONE_IN_A_GUEST)
def test_the_next_datagram_reaches_the_other_service(hooks: Hooks, kind: Kind) -> None:
    """The one that had the frontend is there yet, and so is its backend."""
    family = hooks.family
    c, f = client(family), asked(family, kind)
    apply(hooks, UDP, kind, OLD)
    for _ in range(2):
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, OLD)))
    apply(hooks, UDP, kind, NEW)
    before = hooks.node.counters(family)
    for _ in range(2):
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, NEW)))
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": 2}
    answer = hooks.udp(backend(family, NEW), c)
    assert hooks.egress(answer) == passed(hooks.udp(f, c))
    assert len(hooks.table.claimed()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_datagram_reaches_nobody_we_know(hooks: Hooks, kind: Kind) -> None:
    """It passes untouched, as any other to such an address."""
    family = hooks.family
    datagram = hooks.udp(client(family), asked(family, kind))
    apply(hooks, UDP, kind, OLD)
    hooks.ingress(datagram)
    apply(hooks, UDP, kind, 0)
    assert hooks.ingress(datagram) == passed(datagram)
    assert not hooks.table.claimed()


def test_a_service_made_anew_begins_anew(hooks: Hooks) -> None:
    """What was silent while its Service was deleted and made again is none of the new one's."""
    family = hooks.family
    service = plan(family, UDP, OLD, [OLD])
    datagram = hooks.udp(client(family), frontend(family, OLD))
    hooks.node.apply(service)
    hooks.ingress(datagram)
    hooks.node.remove(service)
    hooks.node.reclaim()
    hooks.node.apply(service)
    before = hooks.node.counters(family)
    for _ in range(2):
        assert hooks.ingress(datagram) == passed(hooks.udp(client(family), backend(family, OLD)))
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": 2}


def test_other_frontends_change_nothing(hooks: Hooks, protocol: Protocol) -> None:
    """Changes of others are looked at once by each connection, and it stays with its backend."""
    family = hooks.family
    kind, first = Kind.NODE_PORT, hooks.first
    c, f, b = client(family), asked(family, Kind.NODE_PORT), backend(family, OLD)
    apply(hooks, protocol, kind, OLD)
    assert hooks.ingress(first(protocol, c, f)) == passed(first(protocol, c, b))
    port = End(bytes(family.address_bytes), NODE_PORT)
    hooks.node.apply(
        plan(family, protocol, OLD, [OLD, 3], frontends=[port], kind=kind, local=2),
        plan(family, protocol, 4, [4]),
    )
    before = hooks.node.counters(family)
    for _ in range(5):
        assert hooks.ingress(first(protocol, c, f)) == passed(first(protocol, c, b))
    assert hooks.grown(before) == {"packet_in": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tcp_connection_lives_on_and_a_new_one_is_the_other_services(
    hooks: Hooks, kind: Kind
) -> None:
    """As with conntrack: only what begins asks who has the frontend now."""
    family = hooks.family
    c, f = client(family), asked(family, kind)
    apply(hooks, TCP, kind, OLD)
    hooks.ingress(hooks.tcp(c, f, SYN))
    hooks.egress(hooks.tcp(backend(family, OLD), c, SYN | ACK))
    apply(hooks, TCP, kind, NEW)
    assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(c, backend(family, OLD), ACK))
    other = client(family, 2)
    after = hooks.ingress(hooks.tcp(other, f, SYN))
    assert after == passed(hooks.tcp(other, backend(family, NEW), SYN))

# SPDX-License-Identifier: Apache-2.0
"""nftables mode: what is for no service is refused or dropped by its address (A8.6, A8.7)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.kernel.packetpath import PREFIXES, SETTINGS, STRICT_PREFIXES
from pyproxy.model import Family, Prefix, Protocol
from tests.datapath.ends import client, frontend, node_address, plan
from tests.datapath.flavours import SERVICE_PORT
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End
from tests.datapath.prog_run import TC_REDIRECT, Ran

TCP, UDP = Protocol.TCP, Protocol.UDP
OTHER_PORT = SERVICE_PORT + 1


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device; TCP service 1, and a ServiceCIDR that it is from."""
    node.apply(plan(family, TCP, 1, [1], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        restrict(found, cidr(family))
        yield found
        found.node.loaded[family].datapath.restrict(None)
        found.path.write_addresses({})


def cidr(family: Family) -> Prefix:
    """Return the network of the services' addresses."""
    address, length = frontend(family).address, 24 if family is Family.IPV4 else 112
    size = length // 8
    return Prefix(address[:size] + bytes(len(address) - size), length)


def restrict(hooks: Hooks, *cidrs: Prefix) -> None:
    """Be strict with networks."""
    hooks.node.loaded[hooks.family].datapath.restrict(cidrs)


def unallocated(family: Family, port: int = SERVICE_PORT) -> End:
    """Return an address of the ServiceCIDR that no service has."""
    return frontend(family, 99, port)


def sent(hooks: Hooks, protocol: Protocol, dst: End) -> Ran:
    """Let a client's first packet come in."""
    return hooks.ingress(hooks.first(protocol, client(hooks.family), dst))


@pytest.mark.kernel
@pytest.mark.parametrize(("protocol", "port"), [(TCP, OTHER_PORT), (UDP, OTHER_PORT), (UDP, 0)])
def test_a_port_that_a_cluster_ip_does_not_have(
    hooks: Hooks, protocol: Protocol, port: int
) -> None:
    """It is refused: RST, or port unreachable; the other protocol's port as well."""
    dst = frontend(hooks.family, port=port or SERVICE_PORT)
    with hooks.node.counting(hooks.family, packet_refused=1):
        assert sent(hooks, protocol, dst).verdict == TC_REDIRECT


def test_an_address_that_nobody_has(hooks: Hooks, protocol: Protocol) -> None:
    """It is dropped where it leaves: before, somebody else may lead it to another address."""
    packet = hooks.first(protocol, client(hooks.family), unallocated(hooks.family))
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(packet) == passed(packet)
    with hooks.node.counting(hooks.family, packet_drop=1):
        assert hooks.egress(packet) == dropped(packet)


def test_what_is_served_is_served(hooks: Hooks) -> None:
    """Its own port and protocol."""
    with hooks.node.counting(hooks.family, packet_open=1, packet_in=1):
        sent(hooks, TCP, frontend(hooks.family))


def test_only_new_connections(hooks: Hooks) -> None:
    """What is in mid-stream was there before (parity A8.4)."""
    for dst in (unallocated(hooks.family), frontend(hooks.family, port=OTHER_PORT)):
        packet = hooks.tcp(client(hooks.family), dst, ACK)
        with hooks.node.counting(hooks.family):
            assert hooks.ingress(packet) == passed(packet)
            assert hooks.egress(packet) == passed(packet)


def test_what_is_for_the_node_itself(hooks: Hooks, protocol: Protocol) -> None:
    """kube-proxy has no such rule on INPUT: a DNS cache on a service's address is asked."""
    family = hooks.family
    own = {end.address: NodeAddressFlag(0) for end in (unallocated(family), frontend(family))}
    hooks.path.write_addresses(own)
    for dst in (unallocated(family), frontend(family, port=OTHER_PORT)):
        packet = hooks.first(protocol, client(family), dst)
        with hooks.node.counting(family):
            assert hooks.ingress(packet) == passed(packet)


def test_a_cidr_of_one_address(hooks: Hooks) -> None:
    """A service that has it comes first; when it is gone, so it is nobody's again."""
    family = hooks.family
    dst = frontend(family, 2, OTHER_PORT)
    restrict(hooks, Prefix(dst.address, 8 * family.address_bytes))
    packet = hooks.tcp(client(family), dst, SYN)
    two = plan(family, TCP, 2, [1], local=1)
    hooks.node.apply(two)
    assert hooks.ingress(packet).verdict == TC_REDIRECT
    hooks.node.remove(two)
    assert hooks.ingress(packet) == passed(packet)
    assert hooks.egress(packet) == dropped(packet)


def test_what_is_about_to_leave(hooks: Hooks, protocol: Protocol) -> None:
    """A socket's connect() to what is dropped is not refused: its packets are dropped here."""
    for dst in (unallocated(hooks.family), frontend(hooks.family, port=OTHER_PORT)):
        packet = hooks.first(protocol, client(hooks.family), dst)
        with hooks.node.counting(hooks.family, packet_drop=1):
            assert hooks.egress(packet) == dropped(packet)


def test_other_networks_are_left_alone(hooks: Hooks, protocol: Protocol) -> None:
    """Their addresses are nobody's business, though they may look alike to the first look."""
    restrict(hooks, Prefix(node_address(hooks.family), 8 * hooks.family.address_bytes))
    packet = hooks.first(protocol, client(hooks.family), unallocated(hooks.family))
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(packet) == passed(packet)
        assert hooks.egress(packet) == passed(packet)


def settings(hooks: Hooks) -> tuple[int, int]:
    """Return of which networks something is strict, and of which nothing may leak."""
    found = hooks.node.loaded[hooks.family].datapath.settings
    strict, prefixes = (found.load(SETTINGS.index(name)) for name in (STRICT_PREFIXES, PREFIXES))
    return strict, prefixes


def test_iptables_mode_is_not_strict(hooks: Hooks, protocol: Protocol) -> None:
    """Nothing is looked at for it, and nothing is left of it."""
    family = hooks.family
    strict, prefixes = settings(hooks)
    assert strict
    assert prefixes & strict == strict
    hooks.node.loaded[family].datapath.restrict(None)
    assert settings(hooks)[0] == 0
    for dst in (unallocated(family), frontend(family, port=OTHER_PORT)):
        packet = hooks.first(protocol, client(family), dst)
        with hooks.node.counting(family):
            assert hooks.ingress(packet) == passed(packet)


def test_services_come_and_go(hooks: Hooks) -> None:
    """A new service's address is refused instead of dropped, until its last port is gone."""
    family = hooks.family
    dst = frontend(family, 2, OTHER_PORT)
    two = plan(family, TCP, 2, [1], local=1), plan(family, UDP, 2, [1], local=1)
    packet = hooks.tcp(client(family), dst, SYN)
    assert hooks.ingress(packet) == passed(packet)
    hooks.node.apply(*two)
    assert hooks.ingress(packet).verdict == TC_REDIRECT
    hooks.node.remove(two[0])
    assert hooks.ingress(packet).verdict == TC_REDIRECT
    hooks.node.remove(two[1])
    assert hooks.ingress(packet) == passed(packet)
    assert hooks.egress(packet) == dropped(packet)


def test_an_agent_that_starts_again_is_as_strict(hooks: Hooks) -> None:
    """What it finds in the maps it counts anew."""
    family = hooks.family
    datapath = hooks.node.loaded[family].datapath
    datapath.read()
    packet = hooks.tcp(client(family), frontend(family, port=OTHER_PORT), SYN)
    assert hooks.ingress(packet).verdict == TC_REDIRECT
    hooks.node.remove(plan(family, TCP, 1, [1], local=1))
    assert hooks.egress(packet) == dropped(packet)


def attempt(hooks: Hooks, protocol: Protocol, dst: End) -> int:
    """Let a socket of the node ask; return errno."""
    domain = socket.AF_INET if hooks.family is Family.IPV4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with hooks.node.make_socket(domain, kind) as sock:
        sock.setblocking(False)
        address = socket.inet_ntop(domain, dst.address)
        return sock.connect_ex((address, dst.port))


def test_sockets_are_refused(hooks: Hooks, protocol: Protocol) -> None:
    """connect() says so at once."""
    dst = frontend(hooks.family, port=OTHER_PORT)
    with hooks.node.counting(hooks.family, refused=1):
        assert attempt(hooks, protocol, dst) == errno.ECONNREFUSED


def test_sockets_are_left_to_be_dropped(hooks: Hooks, protocol: Protocol) -> None:
    """Nobody answers: that shows when their packets leave."""
    with hooks.node.counting(hooks.family, left_to_drop=1):
        assert attempt(hooks, protocol, unallocated(hooks.family)) != errno.ECONNREFUSED


def test_datagrams_are_refused(hooks: Hooks) -> None:
    """sendto() as well."""
    family = hooks.family
    domain = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    dst = frontend(family, port=OTHER_PORT)
    with hooks.node.make_socket(domain, socket.SOCK_DGRAM) as sock:
        where = (socket.inet_ntop(domain, dst.address), dst.port)
        with hooks.node.counting(family, refused=1), pytest.raises(ConnectionRefusedError):
            sock.sendto(b"text", where)

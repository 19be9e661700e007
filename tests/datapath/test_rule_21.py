# SPDX-License-Identifier: Apache-2.0
"""Rule 21: a ClusterIP that the node has itself is left to who answers there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind
from tests.datapath.ends import client, frontend, plan
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import End

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service of each protocol."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found
        found.path.write_addresses({})


def own(hooks: Hooks, *numbers: int, flags: NodeAddressFlag = NodeAddressFlag.PORTS) -> None:
    """Give the node the addresses of these services and no others."""
    hooks.path.write_addresses({frontend(hooks.family, n).address: flags for n in numbers})


@pytest.mark.kernel
@pytest.mark.parametrize(
    "flags", [NodeAddressFlag.PORTS, NodeAddressFlag(0)], ids=["served", "not"]
)
def test_rule_21_a_cluster_ip_of_the_node_is_not_translated(
    hooks: Hooks, protocol: Protocol, flags: NodeAddressFlag
) -> None:
    """NodeLocal DNSCache has kube-dns' address on a device of its own, with NodePorts or not."""
    own(hooks, 1, flags=flags)
    packet = hooks.first(protocol, client(hooks.family), frontend(hooks.family))
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(packet) == passed(packet)


def test_rule_21_others_are(hooks: Hooks, protocol: Protocol) -> None:
    """As soon as the node has the address no more, and for other addresses all the time."""
    for numbers in ((), (2,)):
        own(hooks, *numbers)
        hooks.table.clear()
        with hooks.node.counting(hooks.family, packet_open=1, packet_in=1):
            hooks.ingress(hooks.first(protocol, client(hooks.family), frontend(hooks.family)))


def test_rule_21_connections_go_on(hooks: Hooks, protocol: Protocol) -> None:
    """Those that were translated before the node got the address end where they began."""
    packet = hooks.first(protocol, client(hooks.family), frontend(hooks.family))
    before = hooks.ingress(packet)
    own(hooks, 1)
    assert hooks.ingress(packet) == before


@pytest.mark.parametrize("kind", [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER], ids=lambda k: k.name)
def test_rule_21_a_load_balancers_address_is_translated(
    hooks: Hooks, protocol: Protocol, kind: Kind
) -> None:
    """MetalLB and kube-vip give the node such addresses on purpose."""
    family = hooks.family
    three = End(frontend(family, 3).address, 80)
    hooks.node.apply(plan(family, protocol, 3, [1], frontends=[three], kind=kind, local=1))
    hooks.path.write_addresses({three.address: NodeAddressFlag.PORTS})
    with hooks.node.counting(family, packet_open=1, packet_in=1):
        hooks.ingress(hooks.first(protocol, client(family), three))


def test_rule_21_sockets_are_left_alone_as_well(hooks: Hooks, protocol: Protocol) -> None:
    """The node's own processes ask the same DNS cache."""
    own(hooks, 1)
    family = hooks.family
    domain = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    dst = frontend(family)
    with hooks.node.make_socket(domain, kind) as sock, hooks.node.counting(family):
        sock.setblocking(False)
        sock.connect_ex((socket.inet_ntop(domain, dst.address), dst.port))

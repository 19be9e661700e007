# SPDX-License-Identifier: Apache-2.0
"""socketTranslation: host; sockets of other network namespaces than the node's are left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pyproxy.model import Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTimeouts, PortRange, SocketTranslation
from tests.datapath.asking import errno_of
from tests.datapath.flavours import Flavour, service_address
from tests.datapath.node import Node
from tests.datapath.services import refusing, service
from tests.datapath.test_socket_node_ports import network_of

UDP = Protocol.UDP
HERE, HOST = Options("here"), SocketTranslation.HOST
OTHER_PORT = 81
FLAVOURS = [Flavour.IPV4, Flavour.IPV6]


@pytest.fixture(params=["node", "pod"])
def translated(request: pytest.FixtureRequest, node: Node) -> Iterator[bool]:
    """Whether the sockets are those of the node, which are translated, or another namespace's."""
    is_node = request.param == "node"
    if is_node:
        node.configure(translation=HOST)
    else:
        for each in node.loaded.values():
            each.path.configure(HERE, HOST, ConnectionTimeouts(), PortRange(2_000, 100))
    yield is_node
    node.configure()


@pytest.fixture
def strict(node: Node, flavour: Flavour) -> Iterator[None]:
    """Nftables mode: what is for no service of this network is refused, or dropped."""
    datapath = node.loaded[flavour.family].datapath
    datapath.restrict((network_of(service_address(flavour.family, 1)),))
    yield
    datapath.restrict(None)


@pytest.mark.kernel
def test_connect(node: Node, flavour: Flavour, protocol: Protocol, *, translated: bool) -> None:
    """There is no route to a service's address, only to a backend's."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    counted = {"connect": 1} if translated else {}
    with node.counting(flavour.family, **counted), node.socket(flavour, protocol) as sock:
        error = errno_of(lambda: sock.connect(flavour.service(1)))
    assert error == ("" if translated else "ENETUNREACH")


def test_sendto(node: Node, flavour: Flavour, *, translated: bool) -> None:
    """Every datagram is asked about."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP))
    counted = {"sendmsg": 2} if translated else {}
    with node.counting(flavour.family, **counted), node.socket(flavour, UDP) as sock:
        for _ in range(2):
            error = errno_of(lambda: sock.sendto(b"?", flavour.service(1)))
            assert error == ("" if translated else "ENETUNREACH")


def test_what_is_refused(
    node: Node, flavour: Flavour, protocol: Protocol, *, translated: bool
) -> None:
    """Packets are refused elsewhere."""
    node.apply(refusing(flavour.family, 1, protocol))
    counted = {"refused": 1} if translated else {}
    with node.counting(flavour.family, **counted), node.socket(flavour, protocol) as sock:
        error = errno_of(lambda: sock.connect(flavour.service(1)))
    assert error == ("ECONNREFUSED" if translated else "ENETUNREACH")


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("number", "counter"), [(1, "refused"), (9, "left_to_drop")])
def test_strictness(
    node: Node, flavour: Flavour, protocol: Protocol, number: int, counter: str, *, translated: bool
) -> None:
    """So is what no service has."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    counted = {counter: 1} if translated else {}
    with node.counting(flavour.family, **counted), node.socket(flavour, protocol) as sock:
        error = errno_of(lambda: sock.connect(flavour.service(number, OTHER_PORT)))
    refused = translated and counter == "refused"
    assert error == ("ECONNREFUSED" if refused else "ENETUNREACH")


@pytest.mark.usefixtures("strict", "translated")
@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.value)
def test_other_protocols_are_nobodys(node: Node, flavour: Flavour) -> None:
    """ICMP's echo is neither refused nor dropped, whoever sends it."""
    node.apply(service(flavour.family, 1, [3]))
    number = socket.IPPROTO_ICMP if flavour is Flavour.IPV4 else socket.IPPROTO_ICMPV6
    sockets = node.make_socket(flavour.domain, socket.SOCK_DGRAM, number)
    with node.counting(flavour.family), sockets as sock:
        for service_number in (1, 9):
            to = flavour.service(service_number, 0)
            assert errno_of(lambda: sock.connect(to)) == "ENETUNREACH"  # noqa: B023 - at once

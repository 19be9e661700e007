# SPDX-License-Identifier: Apache-2.0
"""No process of the node binds a NodePort that is served (our setting protectNodePorts)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import address_flags
from pyproxy.kernel.reserved import ReservedPorts
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import Frontend, FrontendKey, Kind
from tests.datapath.asking import errno_of
from tests.datapath.flavours import KINDS, Flavour, backend_address
from tests.datapath.node import Node
from tests.datapath.services import service
from tests.datapath.test_socket_node_ports import configure
from tests.lab import netns

TCP, UDP = Protocol.TCP, Protocol.UDP
NODE_PORT = 31_000
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
SERVED, OTHER = 1, 2  # addresses of the node


@pytest.fixture
def node(node: Node, flavour: Flavour, protocol: Protocol) -> Iterator[Node]:
    """A node with a NodePort of one protocol on one of its addresses."""
    family = flavour.family
    own = [backend_address(family, n) for n in (SERVED, OTHER)]
    selected = Options("here", node_port_addresses=(Prefix(own[0], 8 * len(own[0])),))
    path = node.loaded[family].path
    path.write_addresses(address_flags(own, selected))
    key = FrontendKey(bytes(family.address_bytes), NODE_PORT, int(protocol))
    made = service(family, 1, [3], protocol=protocol)
    node.apply(made._replace(frontends=(Frontend(key, Kind.NODE_PORT),)))
    configure(node, "node")
    yield node
    path.write_addresses({})
    node.configure()


def keep(node: Node, served: set[int]) -> None:
    """Reserve ports as an agent does."""

    def work() -> None:
        found = ReservedPorts(node.loaded[Family.IPV4].pins.shared)
        try:
            found.keep(served)
        finally:
            found.close()

    netns.inside(node.namespace, work)


def bind(node: Node, flavour: Flavour, protocol: Protocol, number: int, port: int) -> str:
    """Bind an address of the node by number, 0 for all; return the error's name, "" for none."""
    address = backend_address(flavour.family, number) if number else None
    text = flavour.text(address) if address else ("" if flavour is Flavour.IPV4 else "::")
    with node.make_socket(flavour.domain, KINDS[protocol]) as sock:
        if flavour is Flavour.IPV6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return errno_of(lambda: sock.bind((text, port)))


@pytest.mark.kernel
@pytest.mark.parametrize("number", [SERVED, 0])
def test_a_node_port_is_taken(
    node: Node, flavour: Flavour, protocol: Protocol, number: int
) -> None:
    """By its address, and as one of all: EADDRINUSE, as if somebody listened there."""
    with node.counting(flavour.family, bind_refused=1):
        assert bind(node, flavour, protocol, number, NODE_PORT) == "EADDRINUSE"


def test_its_own_pods_may_bind_it(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """On the host network they listen on the port that they have, which is the NodePort's here."""
    family = flavour.family
    key = FrontendKey(bytes(family.address_bytes), NODE_PORT, int(protocol))
    made = service(family, 1, [3], protocol=protocol)
    node.apply(made._replace(frontends=(Frontend(key, Kind.NODE_PORT, bindable=True),)))
    with node.counting(family):
        for number in (SERVED, 0):
            assert bind(node, flavour, protocol, number, NODE_PORT) == ""


def test_what_is_not_served_is_free(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """Another address, port or protocol."""
    with node.counting(flavour.family):
        assert bind(node, flavour, protocol, OTHER, NODE_PORT) == ""
        assert bind(node, flavour, protocol, SERVED, NODE_PORT + 1) == ""
        assert bind(node, flavour, TCP if protocol is UDP else UDP, SERVED, NODE_PORT) == ""


def test_pods_may_bind_what_they_like(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """Their addresses are not the node's, whatever they look like here."""
    configure(node, "pod")
    with node.counting(flavour.family):
        assert bind(node, flavour, protocol, SERVED, NODE_PORT) == ""
        assert bind(node, flavour, protocol, 0, NODE_PORT) == ""


def test_nothing_is_protected_where_that_is_not_wanted(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """As with kube-proxy."""
    configure(node, "node", protect_node_ports=False)
    with node.counting(flavour.family):
        assert bind(node, flavour, protocol, SERVED, NODE_PORT) == ""


def test_all_addresses_are_free_where_none_is_served(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """CIDRs that no address of the node is in (A7.1)."""
    family = flavour.family
    elsewhere = Options("here", node_port_addresses=(Prefix(b"\1" * family.address_bytes, 32),))
    own = [backend_address(family, n) for n in (SERVED, OTHER)]
    node.loaded[family].path.write_addresses(address_flags(own, elsewhere))
    with node.counting(family):
        assert bind(node, flavour, protocol, 0, NODE_PORT) == ""


def test_a_port_that_the_kernel_chooses_from_is_free(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """Whether it was chosen or asked for is not to be told: bind() to port 0 must not fail."""
    netns.inside(node.namespace, lambda: LOCAL_PORTS.write_text("30900 31100"))
    try:
        configure(node, "node")
        with node.counting(flavour.family):
            assert bind(node, flavour, protocol, SERVED, NODE_PORT) == ""
        # one that is reserved the kernel does not choose
        for served, error in (({NODE_PORT - 1}, ""), ({NODE_PORT}, "EADDRINUSE")):
            keep(node, served)
            assert bind(node, flavour, protocol, SERVED, NODE_PORT) == error
    finally:
        keep(node, set())
        netns.inside(node.namespace, lambda: LOCAL_PORTS.write_text("32768 60999"))
        configure(node, "node")


@pytest.mark.parametrize(
    ("ports", "chosen"),
    [
        (f"{NODE_PORT - 9} {NODE_PORT - 1}", False),
        (f"{NODE_PORT - 9} {NODE_PORT}", True),
        (f"{NODE_PORT} {NODE_PORT + 9}", True),
        (f"{NODE_PORT + 1} {NODE_PORT + 9}", False),
    ],
)
def test_where_the_kernels_range_begins_and_ends(
    node: Node, flavour: Flavour, protocol: Protocol, ports: str, chosen: bool
) -> None:
    """What is just beyond it nobody gets by itself."""
    netns.inside(node.namespace, lambda: LOCAL_PORTS.write_text(ports))
    try:
        configure(node, "node")
        wanted = "" if chosen else "EADDRINUSE"
        assert bind(node, flavour, protocol, SERVED, NODE_PORT) == wanted
    finally:
        netns.inside(node.namespace, lambda: LOCAL_PORTS.write_text("32768 60999"))
        configure(node, "node")


def test_who_listens_already_goes_on(node: Node, flavour: Flavour) -> None:
    """A port that becomes a NodePort is nobody's to take away."""
    key = FrontendKey(bytes(flavour.family.address_bytes), NODE_PORT + 5, int(TCP))
    with node.make_socket(flavour.domain, socket.SOCK_STREAM) as sock:
        sock.bind((flavour.text(backend_address(flavour.family, SERVED)), NODE_PORT + 5))
        more = service(flavour.family, 2, [3])
        node.apply(more._replace(frontends=(Frontend(key, Kind.NODE_PORT),)))
        sock.listen()
    assert bind(node, flavour, TCP, SERVED, NODE_PORT + 5) == "EADDRINUSE"

# SPDX-License-Identifier: Apache-2.0
"""Sockets that ask for a service by an address from outside: the node's own, and pods'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.model import Address, Family, Prefix, Protocol
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import (
    ConnectionTimeouts,
    Frontend,
    FrontendKey,
    Kind,
    PortPlan,
    PortRange,
    ServiceFlag,
    SocketTranslation,
)
from tests.datapath.asking import ask, ask_connected, errno_of, open_socket
from tests.datapath.flavours import Flavour, SockAddr, backend_address, named, service_address
from tests.datapath.node import Node
from tests.datapath.services import service

NODE_PORT = 31_000
HAS, LOCAL = ServiceFlag.HAS_ENDPOINTS, ServiceFlag.EXTERNAL_LOCAL
PORTS, NETWORK = NodeAddressFlag.PORTS, NodeAddressFlag.NETWORK
SERVED, OTHER = 1, 2  # addresses of the node, which are backends' too
LOOPBACK = {Family.IPV4: bytes((127, 0, 0, 1)), Family.IPV6: bytes(15) + b"\x01"}
EVERYTHING = {family: Prefix(bytes(family.address_bytes), 0) for family in Family}


def network_of(address: Address) -> Prefix:
    """Return the network of 256 addresses that an address is in."""
    return Prefix(address[:-1] + b"\0", 8 * len(address) - 8)


@pytest.fixture
def node(node: Node) -> Iterator[Node]:
    """The node, as an agent of its own network namespace sees it."""
    for family, each in node.loaded.items():
        each.path.write_addresses(
            {
                backend_address(family, SERVED): PORTS,
                backend_address(family, OTHER): NodeAddressFlag(0),
                LOOPBACK[family]: PORTS,
            }
        )
    node.configure()
    yield node
    node.configure()
    for each in node.loaded.values():
        each.path.write_addresses({})
        each.path.write_networks({})


def configure(node: Node, whose: str, **options: Any) -> None:
    """Let the sockets count as the node's ("node"), as pods' ("pod") or as neither ("other")."""
    cidrs = () if whose == "other" else tuple(EVERYTHING.values())
    wanted = Options("here", local_cidrs=cidrs)._replace(**options)
    if whose == "node":
        node.configure(options=wanted)
        return
    # what another network namespace writes down as the node's is not theirs
    for each in node.loaded.values():
        each.path.configure(
            wanted, SocketTranslation.ALL, ConnectionTimeouts(), PortRange(2_000, 100)
        )


def planned(
    flavour: Flavour, protocol: Protocol, kind: Kind, flags: ServiceFlag = HAS, local: int = 0
) -> PortPlan:
    """Return a service with backends 3 and 4, the first `local` of which are on this node."""
    family = flavour.family
    if kind is Kind.NODE_PORT:
        key = FrontendKey(bytes(family.address_bytes), NODE_PORT, int(protocol))
    else:
        key = FrontendKey(service_address(family, 9), 80, int(protocol))
    plan = service(family, 1, [3, 4], protocol=protocol, local=local, flags=flags)
    return plan._replace(frontends=(Frontend(key, kind),))


def without_endpoints(flavour: Flavour, protocol: Protocol, kind: Kind) -> PortPlan:
    """Return such a service that has none."""
    plan = planned(flavour, protocol, kind, ServiceFlag(0))
    return plan._replace(backends=(), members=(), cluster_count=0)


def node_port(flavour: Flavour, number: int = SERVED) -> SockAddr:
    """Return the NodePort on an address of the node."""
    return flavour.text(backend_address(flavour.family, number)), NODE_PORT


def who(node: Node, flavour: Flavour, protocol: Protocol, to: SockAddr) -> int:
    """Return the number of the backend that answers, 0 if connect() left the address alone."""
    before = node.counters(flavour.family)["connect"]
    with open_socket(flavour, protocol, node.make_socket) as sock:
        errno_of(lambda: sock.connect(to))
        if node.counters(flavour.family)["connect"] == before:
            return 0
        return ask_connected(sock).answer.backend


@pytest.mark.parametrize("whose", ["node", "pod", "other"])
def test_node_ports_on_addresses_of_the_node(
    node: Node, flavour: Flavour, protocol: Protocol, whose: str
) -> None:
    """On those that are selected, for everybody (A2.5, A7.1)."""
    configure(node, whose)
    node.apply(planned(flavour, protocol, Kind.NODE_PORT))
    assert who(node, flavour, protocol, node_port(flavour)) in {3, 4}
    assert who(node, flavour, protocol, node_port(flavour, OTHER)) == 0
    elsewhere = (flavour.text(service_address(flavour.family, 1)), NODE_PORT)
    assert who(node, flavour, protocol, elsewhere) == 0
    assert who(node, flavour, protocol, (node_port(flavour)[0], NODE_PORT + 1)) == 0


@pytest.mark.parametrize("whose", ["node", "pod", "other"])
def test_loopback_is_the_nodes_own(
    node: Node, flavour: Flavour, protocol: Protocol, whose: str
) -> None:
    """A pod's loopback addresses are its own; no address at all is loopback, too (A7.5)."""
    family = flavour.family
    configure(node, whose)
    node.apply(planned(flavour, protocol, Kind.NODE_PORT))
    for address in (LOOPBACK[family], bytes(family.address_bytes)):
        found = who(node, flavour, protocol, (flavour.text(address), NODE_PORT))
        assert (found in {3, 4}) == (whose == "node")


def test_no_address_is_shown_as_loopback(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """As the kernel shows whom a socket talks to that has dialled no address."""
    family = flavour.family
    node.apply(planned(flavour, protocol, Kind.NODE_PORT))
    with open_socket(flavour, protocol, node.make_socket) as sock:
        sock.connect((flavour.text(bytes(family.address_bytes)), NODE_PORT))
        assert named(sock.getpeername()) == (flavour.text(LOOPBACK[family]), NODE_PORT)


@pytest.mark.parametrize("flavour", [Flavour.IPV4, Flavour.MAPPED])
@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("flags", [PORTS, PORTS | NETWORK])
def test_all_of_loopbacks_network(
    node: Node, flavour: Flavour, protocol: Protocol, last: int, flags: NodeAddressFlag
) -> None:
    """Without CIDRs 127.0.0.0/8 counts, with them the one address that lo has (A7.5)."""
    node.loaded[Family.IPV4].path.write_addresses({LOOPBACK[Family.IPV4]: flags})
    node.apply(planned(flavour, protocol, Kind.NODE_PORT))
    found = who(node, flavour, protocol, (flavour.text(bytes((127, 0, 0, last))), NODE_PORT))
    assert (found in {3, 4}) == (last == 1 or NETWORK in flags)


@pytest.mark.parametrize("kind", [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER, Kind.NODE_PORT])
@pytest.mark.parametrize("whose", ["node", "pod", "other"])
def test_external_policies(
    node: Node, flavour: Flavour, protocol: Protocol, kind: Kind, whose: str
) -> None:
    """Processes of the node reach all endpoints, whatever the policy (A9.7); packets of pods do.

    A socket of theirs has no address yet by which the detector would know it (A9.6).
    """
    configure(node, whose)
    node.apply(planned(flavour, protocol, kind, HAS | LOCAL, local=1))
    to = node_port(flavour) if kind is Kind.NODE_PORT else flavour.service(9)
    drawn = {who(node, flavour, protocol, to) for _ in range(24)}
    assert drawn == {"node": {3, 4}, "pod": {0}, "other": {3}}[whose]


@pytest.mark.parametrize("whose", ["node", "pod", "other"])
def test_a_local_policy_without_local_endpoints(
    node: Node, flavour: Flavour, protocol: Protocol, whose: str
) -> None:
    """What is dropped is left to its packets (A8.3)."""
    configure(node, whose)
    node.apply(planned(flavour, protocol, Kind.EXTERNAL_IP, HAS | LOCAL))
    if whose == "other":
        with node.counting(flavour.family, left_to_drop=1):
            assert who(node, flavour, protocol, flavour.service(9)) == 0
    else:
        wanted = {0} if whose == "pod" else {3, 4}
        assert who(node, flavour, protocol, flavour.service(9)) in wanted


@pytest.mark.parametrize("further", [False, True], ids=["first", "further"])
def test_an_unconnected_socket_has_a_backend_for_each_address(
    node: Node, flavour: Flavour, further: bool
) -> None:
    """The ClusterIP's may not be one for the NodePort, whose policy is another one."""
    family = flavour.family
    node_port = planned(flavour, Protocol.UDP, Kind.NODE_PORT, HAS | LOCAL, local=1)
    cluster_ip = Frontend(FrontendKey(service_address(family, 1), 80, 17), Kind.CLUSTER_IP)
    whole = node_port._replace(frontends=(cluster_ip, *node_port.frontends))
    elsewhere = service(family, 1, [4], protocol=Protocol.UDP)
    configure(node, "other")
    node.apply(elsewhere, service(family, 2, [5], protocol=Protocol.UDP))
    with node.socket(flavour, Protocol.UDP) as sock:
        if further:
            assert ask(sock, flavour.service(2)).answer.backend == 5
        assert ask(sock, flavour.service(1)).answer.backend == 4
        node.apply(whole, service(family, 2, [5], protocol=Protocol.UDP))
        outside = flavour.text(backend_address(family, SERVED)), NODE_PORT
        for _ in range(3):
            told = ask(sock, outside)
            assert (told.answer.backend, told.source) == (3, outside)
            told = ask(sock, flavour.service(1))
            assert (told.answer.backend, told.source) == (4, flavour.service(1))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("whose", ["node", "pod"])
@pytest.mark.parametrize("local", ["address", "network", ""])
def test_where_refusals_are_in_force(  # noqa: PLR0917 - a table of three columns
    node: Node, flavour: Flavour, protocol: Protocol, mode: Mode, whose: str, local: str
) -> None:
    """Iptables mode lets a process of the node go on to an address that is elsewhere (A8.5)."""
    configure(node, whose, mode=mode)
    address, path = service_address(flavour.family, 9), node.loaded[flavour.family].path
    if local == "address":
        path.write_addresses({address: NodeAddressFlag(0)})
    elif local == "network":
        path.write_networks({network_of(address): NodeAddressFlag(0)})
    node.apply(without_endpoints(flavour, protocol, Kind.LOAD_BALANCER))
    refused = bool(local) or whose == "pod" or mode is Mode.NFTABLES
    with (
        node.counting(flavour.family, **({"refused": 1} if refused else {})),
        node.socket(flavour, protocol) as sock,
    ):
        wanted = "ECONNREFUSED" if refused else "ENETUNREACH"
        assert errno_of(lambda: sock.connect(flavour.service(9))) == wanted


@pytest.mark.parametrize("mode", Mode)
def test_a_node_port_without_endpoints_on_other_addresses(
    node: Node, flavour: Flavour, protocol: Protocol, mode: Mode
) -> None:
    """Iptables mode refuses on all of the node's addresses (A7.6), nftables where it serves."""
    configure(node, "node", mode=mode)
    node.apply(without_endpoints(flavour, protocol, Kind.NODE_PORT))
    for number, refused in ((SERVED, True), (OTHER, mode is Mode.IPTABLES)):
        with (
            node.counting(flavour.family, **({"refused": 1} if refused else {})),
            node.socket(flavour, protocol) as sock,
        ):
            errno_of(lambda n=number: sock.connect(node_port(flavour, n)))  # type: ignore[misc]  # mypy can't infer a lambda with defaults


def test_an_address_whose_words_cancel_out_is_none_of_loopback(
    node: Node, protocol: Protocol
) -> None:
    """Only all zeros are no address."""
    node.apply(planned(Flavour.IPV6, protocol, Kind.NODE_PORT))
    assert who(node, Flavour.IPV6, protocol, ("2001:db8:2001:db8::", NODE_PORT)) == 0

# SPDX-License-Identifier: Apache-2.0
"""loadBalancerSourceRanges: who may ask a load balancer's address (parity A10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NODE, DeviceFacts, NodeAddressFlag
from pyproxy.kernel.hops import Way
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.tables import Frontend, FrontendKey, Kind, PortPlan
from tests.datapath.asking import errno_of, open_socket
from tests.datapath.ends import backend, client, node_address, packed, plan
from tests.datapath.flavours import Flavour, backend_address, service_address
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import End
from tests.datapath.services import service
from tests.datapath.test_socket_node_ports import configure, network_of

TCP, UDP = Protocol.TCP, Protocol.UDP
INSIDE, NEIGHBOUR, OUTSIDE = 0x21, 0x22, 0x41  # clients


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family))
        yield found


def balanced(family: Family, number: int = 1) -> End:
    """Return a load balancer's address."""
    return End(packed(family, f"203.0.113.{number}", f"2001:db8::{number:x}"), 443)


def network(family: Family, number: int, free: int) -> Prefix:
    """Return the network of a client, with so many bits that are left open."""
    return Prefix(client(family, number & ~0 << free).address, 8 * family.address_bytes - free)


def planned(
    family: Family, protocol: Protocol, ranges: Sequence[Prefix], number: int = 1
) -> PortPlan:
    """Return a service by a load balancer's address, and by an external one that is no such."""
    ends = [balanced(family, number)]
    made = plan(family, protocol, number, [number], frontends=ends, kind=Kind.LOAD_BALANCER)
    other = End(balanced(family, number).address, 444)
    frontends = (*made.frontends, Frontend(FrontendKey(*other, int(protocol)), Kind.EXTERNAL_IP))
    return made._replace(frontends=frontends, source_ranges=tuple(sorted(ranges)))


@pytest.mark.parametrize("free", [0, 2])
def test_only_those_in_a_range_are_let_in(hooks: Hooks, protocol: Protocol, free: int) -> None:
    """Several ranges are one set; whoever is in none is dropped without a word (A10.1)."""
    family = hooks.family
    ranges = [network(family, INSIDE, free), network(family, 0x7F, 0)]
    hooks.node.apply(planned(family, protocol, ranges))
    for number, let_in in ((INSIDE, True), (0x7F, True), (NEIGHBOUR, free > 0), (OUTSIDE, False)):
        c = client(family, number)
        packet = hooks.first(protocol, c, balanced(family))
        if let_in:
            there = hooks.first(protocol, c, backend(family))
            assert hooks.ingress(packet) == passed(there)
        else:
            with hooks.node.counting(family, packet_filtered=1):
                assert hooks.ingress(packet) == dropped(packet)


def test_other_kinds_of_frontends_are_for_everybody(hooks: Hooks, protocol: Protocol) -> None:
    """Also of the same service (A7.7)."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol, [network(family, INSIDE, 0)]))
    c, to = client(family, OUTSIDE), End(balanced(family).address, 444)
    there = hooks.first(protocol, c, backend(family))
    assert hooks.ingress(hooks.first(protocol, c, to)) == passed(there)


def test_each_service_has_its_own_ranges(hooks: Hooks, protocol: Protocol) -> None:
    """What another one lets in does not count."""
    family = hooks.family
    hooks.node.apply(
        planned(family, protocol, [network(family, INSIDE, 0)]),
        planned(family, protocol, [network(family, OUTSIDE, 0)], 2),
    )
    for number, frontend in ((INSIDE, 2), (OUTSIDE, 1)):
        packet = hooks.first(protocol, client(family, number), balanced(family, frontend))
        assert hooks.ingress(packet) == dropped(packet)


def test_connections_that_exist_go_on(hooks: Hooks, protocol: Protocol) -> None:
    """Only new ones are asked who they are (A8.4); ranges that change count at once for those."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol, [network(family, INSIDE, 0)]))
    c, f, b = client(family, INSIDE), balanced(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    hooks.egress(hooks.answer(protocol, b, c))
    hooks.node.apply(planned(family, protocol, [network(family, OUTSIDE, 0)]))
    before, after = (hooks.further(protocol, c, to) for to in (f, b))
    assert hooks.ingress(before) == passed(after)
    another = hooks.first(protocol, client(family, INSIDE, 50_000), f)
    assert hooks.ingress(another) == dropped(another)
    hooks.node.apply(planned(family, protocol, []))
    assert hooks.ingress(another).verdict == passed(another).verdict


def test_what_leaves_the_node_is_asked_as_well(hooks: Hooks, protocol: Protocol) -> None:
    """A process of the node that may not ask gets no answer from the real balancer either."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol, [network(family, INSIDE, 0)]))
    let_in, kept_out = (
        hooks.first(protocol, client(family, number), balanced(family))
        for number in (INSIDE, OUTSIDE)
    )
    assert hooks.egress(let_in) == passed(let_in)
    with hooks.node.counting(family, packet_filtered=1):
        assert hooks.egress(kept_out) == dropped(kept_out)


def test_what_goes_on_leaves_the_node(hooks: Hooks) -> None:
    """A connection to the real balancer that was there before the ranges (A8.4, A10.1)."""
    family = hooks.family
    hooks.node.apply(planned(family, TCP, [network(family, INSIDE, 0)]))
    further = hooks.further(TCP, client(family, OUTSIDE), balanced(family))
    with hooks.node.counting(family):
        assert hooks.egress(further) == passed(further)


def ask_by_socket(
    node: Node,
    flavour: Flavour,
    own: bytes,
    allowed: bytes,
    counted: dict[str, int],
    *,
    bound: bytes = b"",
    routed: dict[Way, bytes] | None = None,
) -> None:
    """Dial a load balancer's address that one address may ask; the node's is another, perhaps.

    The socket may be bound to an address, and routes may say what the node sends from.
    """
    family = flavour.family
    path = node.loaded[family].path
    path.write_devices({NODE: DeviceFacts(own, 0)} if own else {})
    path.write_hop_sources(routed or {})
    key = FrontendKey(service_address(family, 9), 80, int(TCP))
    node.apply(
        service(family, 1, [3])._replace(
            frontends=(Frontend(key, Kind.LOAD_BALANCER),),
            source_ranges=(Prefix(allowed, 8 * len(allowed)),),
        )
    )
    try:
        with (
            node.counting(family, **counted),
            open_socket(flavour, TCP, node.make_socket) as sock,
        ):
            if bound:
                sock.bind((flavour.text(bound), 0))
            errno_of(lambda: sock.connect(flavour.service(9)))
    finally:
        path.write_devices({})
        path.write_addresses({})
        path.write_hop_sources({})
        node.configure()


@pytest.mark.parametrize(
    ("whose", "admitted", "counted"),
    [
        ("node", True, {"connect": 1}),
        ("node", False, {}),
        # its packets say who it is
        ("pod", True, {}),
        ("other", True, {}),
    ],
)
def test_sockets(
    node: Node, flavour: Flavour, whose: str, admitted: bool, counted: dict[str, int]
) -> None:
    """A process of the node asks with the node's address, which may be let in or not."""
    own, another = (backend_address(flavour.family, n) for n in (5, 6))
    configure(node, whose)
    ask_by_socket(node, flavour, own, own if admitted else another, counted)


@pytest.mark.parametrize("admitted", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["network", "address"])
def test_a_node_that_has_the_address_asks_with_it(
    node: Node, flavour: Flavour, whole: bool, admitted: bool
) -> None:
    """As the kernel chooses for an address of its own (A10.3), or of a network that is its own."""
    family = flavour.family
    vip, own = service_address(family, 9), backend_address(family, 6)
    node.configure()
    path, flags = node.loaded[family].path, NodeAddressFlag(0)
    path.write_addresses({} if whole else {vip: flags})
    path.write_networks({network_of(vip): flags} if whole else {})
    counted = {"connect": 1} if admitted else {}
    try:
        ask_by_socket(node, flavour, own, vip if admitted else own, counted)
    finally:
        path.write_networks({})


@pytest.mark.parametrize("admitted", [True, False])
def test_a_socket_of_the_node_that_is_bound(node: Node, flavour: Flavour, admitted: bool) -> None:
    """It asks with that address, whatever the node's usual one is."""
    usual, bound = (backend_address(flavour.family, n) for n in (1, 2))
    configure(node, "node")
    counted = {"connect": 1} if admitted else {}
    ask_by_socket(node, flavour, usual, bound if admitted else usual, counted, bound=bound)


@pytest.mark.parametrize("admitted", [True, False])
@pytest.mark.parametrize("whose", ["node", "other's", "none"])
def test_a_route_says_what_the_node_asks_from(
    node: Node, flavour: Flavour, whose: str, admitted: bool
) -> None:
    """Only a route to the very address that is asked, and of whichever device it leads by."""
    usual, routed = (backend_address(flavour.family, n) for n in (5, 6))
    asked = service_address(flavour.family, 8 if whose == "other's" else 9)
    way = Way(NODE if whose != "none" else 2, Prefix(asked, 8 * len(asked)))
    configure(node, "node")
    real = routed if whose == "node" else usual
    allowed = real if admitted else routed if real == usual else usual
    counted = {"connect": 1} if admitted else {}
    ask_by_socket(node, flavour, usual, allowed, counted, routed={way: routed})


def test_a_node_that_has_no_address_is_left_to_its_packets(node: Node, flavour: Flavour) -> None:
    """Nobody knows yet what it asks from."""
    everybody = bytes(flavour.family.address_bytes)
    configure(node, "node")
    ask_by_socket(node, flavour, b"", everybody, {})


@pytest.mark.parametrize("whose", ["pod", "node"])
def test_nothing_else_is_said_of_who_is_kept_out(node: Node, flavour: Flavour, whose: str) -> None:
    """Not even in nftables mode, where an address that no service has may be refused at once."""
    own, another = (backend_address(flavour.family, n) for n in (5, 6))
    datapath = node.loaded[flavour.family].datapath
    configure(node, whose)
    datapath.restrict((network_of(service_address(flavour.family, 9)),))
    try:
        ask_by_socket(node, flavour, own, another, {})
    finally:
        datapath.restrict(None)

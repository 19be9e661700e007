# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets of pods that share a bridge, where backends are on this node.

A backend that left is told of nowhere on the way from one port of the bridge to another, so that
their packets are translated instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyproxy.kernel.addresses import BRIDGED, NODE, DeviceFacts
from pyproxy.model import Protocol
from tests.datapath.asking import ask_connected, errno_of, open_socket
from tests.datapath.flavours import Flavour, backend_address, named
from tests.datapath.node import Node, run_ip
from tests.datapath.services import service
from tests.datapath.test_socket_node_ports import configure

UDP = Protocol.UDP
ONE = 1  # the node's address, as far as it has one


def write_node(node: Node, flags: int) -> None:
    """Say what is known of the node as a whole."""
    for family, each in node.loaded.items():
        each.path.write_devices({NODE: DeviceFacts(backend_address(family, ONE), flags)})


@pytest.fixture
def node(node: Node) -> Iterator[Node]:
    """The node, whose sockets count as pods' on a bridge."""
    configure(node, "other")
    write_node(node, BRIDGED)
    yield node
    node.configure()
    for each in node.loaded.values():
        each.path.write_devices({})


@pytest.fixture
def routed(node: Node, flavour: Flavour) -> Iterator[None]:
    """A way to the services' addresses, so that sockets can be connected to them."""
    address, _ = flavour.service(1)
    to = f"{address.removeprefix('::ffff:')}/{8 * flavour.family.address_bytes}"
    run_ip(node.namespace, f"route add {to} dev lo")
    yield
    run_ip(node.namespace, f"route del {to} dev lo")


def is_translated(node: Node, flavour: Flavour, protocol: Protocol = UDP) -> bool:
    """Return whether connect() put a backend's address in place of the service's."""
    before = node.counters(flavour.family)["connect"]
    with open_socket(flavour, protocol, node.make_socket) as sock:
        error = errno_of(lambda: sock.connect(flavour.service(1)))
        translated = node.counters(flavour.family)["connect"] > before
        assert error == ("" if translated else "ENETUNREACH")
        if translated:
            assert ask_connected(sock).answer.backend in {3, 4}
    return translated


def test_a_backend_of_this_node_is_left_to_packets(node: Node, flavour: Flavour) -> None:
    """And one of another node, which is reached through the host's IP layer, is not."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP, local=1))
    assert not is_translated(node, flavour)
    node.apply(service(flavour.family, 1, [4], protocol=UDP))
    assert is_translated(node, flavour)


def test_others_than_connected_datagrams_are_translated(node: Node, flavour: Flavour) -> None:
    """TCP's connections live where they are; sendto() asks for each datagram."""
    node.apply(
        service(flavour.family, 1, [3], local=1),
        service(flavour.family, 2, [4], protocol=UDP, local=1),
    )
    assert is_translated(node, flavour, Protocol.TCP)
    with node.counting(flavour.family, sendmsg=1), node.socket(flavour, UDP) as sock:
        sock.sendto(b"?", flavour.service(2))


@pytest.mark.parametrize("whose", ["node", "pod", "other"])
@pytest.mark.parametrize("bridged", [True, False])
def test_it_is_for_pods_on_bridges(
    node: Node, flavour: Flavour, whose: str, *, bridged: bool
) -> None:
    """Whether a local detector knows them or not; a process of the node is told otherwise."""
    configure(node, whose)
    write_node(node, BRIDGED if bridged else 0)
    node.apply(service(flavour.family, 1, [3], protocol=UDP, local=1))
    assert is_translated(node, flavour) == (whose == "node" or not bridged)


@pytest.mark.usefixtures("routed")
def test_what_was_left_alone_stays_so(node: Node, flavour: Flavour) -> None:
    """However it is sent: the socket takes answers from the service's own address only.

    send() on an IPv6 socket with an IPv4-mapped peer comes by the hook for unconnected ones, which
    would pick the backend elsewhere (udpv6_sendmsg).
    """
    node.apply(service(flavour.family, 1, [3], protocol=UDP, local=1))
    with ExitStack() as undo:
        sockets = [undo.enter_context(node.socket(flavour, UDP)) for _ in range(8)]
        for sock in sockets:
            sock.connect(flavour.service(1))
        node.apply(service(flavour.family, 1, [4], protocol=UDP))
        with node.counting(flavour.family):
            for sock in sockets:
                sock.send(b"?")
                errno_of(lambda: sock.sendto(b"?", flavour.service(1)))  # noqa: B023 - at once
                assert named(sock.getpeername()) == flavour.service(1)


@pytest.mark.usefixtures("routed")
def test_a_socket_that_is_connected_anew_is_judged_anew(node: Node, flavour: Flavour) -> None:
    """From a backend elsewhere to one of this node, and back."""
    elsewhere = service(flavour.family, 1, [4], protocol=UDP)
    here = service(flavour.family, 1, [3], protocol=UDP, local=1)
    with node.socket(flavour, UDP) as sock:
        for plan, counted in ((elsewhere, {"connect": 1}), (here, {}), (elsewhere, {"connect": 1})):
            node.apply(plan)
            with node.counting(flavour.family, **counted):
                sock.connect(flavour.service(1))
            assert named(sock.getpeername()) == flavour.service(1)
            if counted:
                assert ask_connected(sock).answer.backend == 4

# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets of pods that share a bridge, where a service has backends on this node.

A backend that left is told of nowhere on the way from one port of the bridge to another, so that
their packets are translated instead; while an agent says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.packetpath import TICK_NS
from pyproxy.model import Protocol
from tests.datapath.asking import ask_connected, errno_of, open_socket
from tests.datapath.flavours import Flavour, named
from tests.datapath.node import Node, run_ip
from tests.datapath.services import service
from tests.datapath.test_socket_node_ports import configure
from tests.lab.waiting import wait_for

UDP = Protocol.UDP
LONG_S = 3_600


def write_bridged(node: Node, seconds: int) -> None:
    """Say for how long pods share a bridge."""
    for each in node.loaded.values():
        each.path.write_bridged(seconds)


@pytest.fixture
def node(node: Node) -> Iterator[Node]:
    """The node, whose sockets count as pods' on a bridge."""
    configure(node, "other")
    write_bridged(node, LONG_S)
    yield node
    node.configure()
    write_bridged(node, 0)


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


def test_a_service_with_backends_here_is_left_to_packets(node: Node, flavour: Flavour) -> None:
    """All of it, before one is drawn: else those here would be drawn once more than others."""
    for backends, local in (([3], 1), ([3, 4, 5, 6], 1), ([4], 0), ([3, 4], 0)):
        node.apply(service(flavour.family, 1, backends, protocol=UDP, local=local))
        for _ in range(8):
            assert is_translated(node, flavour) is (not local)


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
    write_bridged(node, LONG_S if bridged else 0)
    node.apply(service(flavour.family, 1, [3], protocol=UDP, local=1))
    assert is_translated(node, flavour) == (whose == "node" or not bridged)


def test_it_is_so_only_while_an_agent_says_it(node: Node, flavour: Flavour) -> None:
    """Nobody covers the devices of pods that start when it has gone."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP, local=1))
    write_bridged(node, 1)
    assert not is_translated(node, flavour)
    wait_for(lambda: is_translated(node, flavour), 1 + 100 * TICK_NS / 1e9, "the time to be over")


def test_no_client_is_remembered_for_it(node: Node, flavour: Flavour) -> None:
    """Whose packets they are has another name there: its address, not its network namespace."""
    plan = service(flavour.family, 1, [3, 4, 5], protocol=UDP, local=1)
    node.apply(plan._replace(affinity_timeout_s=100))
    pin = node.loaded[flavour.family].pins.maps / "affinity"
    with links.opened(pin) as fd:
        shape = libbpf.map_info(fd)
        before = libbpf.map_count(fd, shape.key_size, shape.value_size)
        assert not is_translated(node, flavour)
        assert libbpf.map_count(fd, shape.key_size, shape.value_size) == before


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
        write_bridged(node, 0)
        node.apply(service(flavour.family, 1, [4], protocol=UDP))
        with node.counting(flavour.family):
            for sock in sockets:
                sock.send(b"?")
                errno_of(lambda: sock.sendto(b"?", flavour.service(1)))  # noqa: B023 - at once
                assert named(sock.getpeername()) == flavour.service(1)


@pytest.mark.usefixtures("routed")
def test_another_service_than_its_peer_is_asked_as_ever(node: Node, flavour: Flavour) -> None:
    """By sendto() on a socket that is connected to one which was left alone."""
    node.apply(
        service(flavour.family, 1, [3], protocol=UDP, local=1),
        service(flavour.family, 2, [4], protocol=UDP),
    )
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(1))
        with node.counting(flavour.family, sendmsg=1):
            sock.sendto(b"?", flavour.service(2))


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

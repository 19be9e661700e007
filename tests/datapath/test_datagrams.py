# SPDX-License-Identifier: Apache-2.0
"""sendto() and recvfrom() of UDP sockets: who gets a datagram, and whose name a reply has."""

from __future__ import annotations

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import PortPlan
from tests.datapath.asking import Answer, ask, ask_connected, disconnect, errno_of
from tests.datapath.flavours import PORT, Flavour, named
from tests.datapath.node import Node
from tests.datapath.services import dropping, refusing, service

UDP = Protocol.UDP


def udp_service(family: Family, number: int, backend: int) -> PortPlan:
    """Return a UDP service with one backend."""
    return service(family, number, [backend], protocol=UDP)


@pytest.mark.kernel
def test_a_reply_comes_from_the_service(node: Node, flavour: Flavour) -> None:
    """An unconnected socket's datagram reaches the backend; recvfrom() says the service."""
    node.apply(udp_service(flavour.family, 1, 3))
    with node.counting(flavour.family, sendmsg=2), node.socket(flavour, UDP) as sock:
        for _ in range(2):
            assert ask(sock, flavour.service(1)) == (Answer(3, PORT), flavour.service(1))


@pytest.mark.kernel
def test_a_datagram_to_a_service_without_endpoints_is_refused(node: Node, flavour: Flavour) -> None:
    """The first sendto(), and each one after it, fails with ECONNREFUSED at once."""
    node.apply(refusing(flavour.family, 1, UDP))
    with node.counting(flavour.family, refused=2), node.socket(flavour, UDP) as sock:
        for _ in range(2):
            assert errno_of(lambda: sock.sendto(b"?", flavour.service(1))) == "ECONNREFUSED"


def test_a_datagram_that_a_policy_drops_is_untranslated(node: Node, flavour: Flavour) -> None:
    """A Local policy without local endpoints leaves the datagram to be dropped."""
    node.apply(dropping(flavour.family, 1, UDP))
    with node.counting(flavour.family, left_to_drop=1), node.socket(flavour, UDP) as sock:
        assert errno_of(lambda: sock.sendto(b"?", flavour.service(1))) == "ENETUNREACH"


def test_an_explicit_address_on_a_connected_socket_is_translated(
    node: Node, flavour: Flavour
) -> None:
    """sendto() with the service's address on a socket connected to it goes to its backend.

    The kernel takes no answer from another one.
    """
    node.apply(service(flavour.family, 1, range(1, 9), protocol=UDP))
    for _ in range(8):
        with node.socket(flavour, UDP) as sock:
            sock.connect(flavour.service(1))
            answer = ask_connected(sock).answer
            assert ask(sock, flavour.service(1)) == (answer, flavour.service(1))
            assert named(sock.getpeername()) == flavour.service(1)


def test_a_connected_socket_keeps_its_name_while_it_sends_elsewhere(
    node: Node, flavour: Flavour
) -> None:
    """sendto() to another service, or to a pod, leaves the connected service's name alone."""
    node.apply(udp_service(flavour.family, 1, 3), udp_service(flavour.family, 2, 4))
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(1))
        for elsewhere in (flavour.service(2), flavour.backend(3), flavour.backend(5)):
            sock.sendto(b"?", elsewhere)
        assert named(sock.getpeername()) == flavour.service(1)
        assert ask_connected(sock) == (Answer(3, PORT), flavour.service(1))


def test_rule_19_one_socket_uses_many_services(node: Node, flavour: Flavour) -> None:
    """An unconnected socket uses three services and a pod in any order: every name is right."""
    services = {1: 3, 2: 4, 5: 6}
    node.apply(*(udp_service(flavour.family, n, b) for n, b in services.items()))
    with node.socket(flavour, UDP) as sock:
        for _ in range(2):
            for number, backend in services.items():
                to = flavour.service(number)
                assert ask(sock, to) == (Answer(backend, PORT), to)
            to = flavour.backend(8)
            assert ask(sock, to) == (Answer(8, PORT), to)


def test_rule_19_replies_in_another_order_have_the_right_names(
    node: Node, flavour: Flavour
) -> None:
    """Questions to several services at once: each reply is named after its own service."""
    services = {1: 3, 2: 4, 5: 6}
    node.apply(*(udp_service(flavour.family, n, b) for n, b in services.items()))
    with node.socket(flavour, UDP) as sock:
        for number in (5, 1, 2):
            sock.sendto(b"?", flavour.service(number))
        replies = [sock.recvfrom(64) for _ in services]
    names = {int(raw.split()[0]): named(source) for raw, source in replies}
    assert names == {b: flavour.service(n) for n, b in services.items()}


@pytest.mark.parametrize("first", [1, 2], ids=["first", "further"])
def test_rule_19_the_most_recent_use_names_a_backend(
    node: Node, flavour: Flavour, first: int
) -> None:
    """A backend asked directly has its own name, then again the service's that it is asked by."""
    node.apply(udp_service(flavour.family, 1, 3), udp_service(flavour.family, 2, 4))
    with node.socket(flavour, UDP) as sock:
        ask(sock, flavour.service(first))
        for _ in range(2):
            for to in (flavour.service(1), flavour.backend(3)):
                assert ask(sock, to) == (Answer(3, PORT), to)


@pytest.mark.parametrize("others", [(), (7,)], ids=["first-and-further", "both-further"])
def test_rule_19_services_that_share_a_backend_are_told_apart(
    node: Node, flavour: Flavour, others: tuple[int, ...]
) -> None:
    """Two services with one backend: a reply has the name of the service that was asked last."""
    plans = [udp_service(flavour.family, n, 3) for n in (1, 2)]
    node.apply(*plans, *(udp_service(flavour.family, n, 5) for n in others))
    with node.socket(flavour, UDP) as sock:
        for number in others:
            ask(sock, flavour.service(number))
        for number in (1, 2, 1, 2):
            to = flavour.service(number)
            assert ask(sock, to) == (Answer(3, PORT), to)


def test_a_pod_asked_by_itself_only_keeps_its_name(node: Node, flavour: Flavour) -> None:
    """A socket that uses a service still sees other pods by their own names."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP))
    with node.socket(flavour, UDP) as sock:
        ask(sock, flavour.service(1))
        assert ask(sock, flavour.backend(4)) == (Answer(4, PORT), flavour.backend(4))


def test_rule_19_a_dissolved_association_names_nothing(node: Node, flavour: Flavour) -> None:
    """After connect(AF_UNSPEC) a backend that is asked directly has its own name."""
    node.apply(udp_service(flavour.family, 1, 3))
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(1))
        disconnect(sock)
        assert ask(sock, flavour.backend(3)) == (Answer(3, PORT), flavour.backend(3))
        assert ask(sock, flavour.service(1)) == (Answer(3, PORT), flavour.service(1))


def test_services_of_both_families_on_one_socket(node: Node) -> None:
    """An IPv6 socket sends to IPv6 and to mapped services in turn: every name is right."""
    for flavour in (Flavour.IPV4, Flavour.IPV6):
        node.apply(udp_service(flavour.family, 1, 3), udp_service(flavour.family, 2, 4))
    with node.socket(Flavour.IPV6, UDP) as sock:
        for number, backend in ((1, 3), (2, 4), (1, 3)):
            for flavour in (Flavour.IPV6, Flavour.MAPPED):
                to = flavour.service(number)
                assert ask(sock, to) == (Answer(backend, PORT), to)


def test_two_sockets_do_not_share_names(node: Node, flavour: Flavour) -> None:
    """What one socket asked a backend through is nothing to another socket."""
    node.apply(udp_service(flavour.family, 1, 3), udp_service(flavour.family, 2, 4))
    with node.socket(flavour, UDP) as one, node.socket(flavour, UDP) as other:
        for number in (1, 2):
            ask(one, flavour.service(number))
        for number in (3, 4):
            to = flavour.backend(number)
            assert ask(other, to) == (Answer(number, PORT), to)


def test_a_closed_socket_leaves_no_names(node: Node, flavour: Flavour) -> None:
    """Many sockets one after the other, each with two services: all names are right."""
    node.apply(udp_service(flavour.family, 1, 3), udp_service(flavour.family, 2, 4))

    def rounds() -> None:
        for _ in range(100):
            with node.socket(flavour, UDP) as sock:
                for number, backend in ((1, 3), (2, 4)):
                    to = flavour.service(number)
                    assert ask(sock, to) == (Answer(backend, PORT), to)

    rounds()

# SPDX-License-Identifier: Apache-2.0
"""An unconnected UDP socket stays with its backend for as long as that is a member."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import PortPlan, ServiceFlag
from tests.datapath.asking import Answer, ask, ask_connected, errno_of, open_socket
from tests.datapath.flavours import OTHER_PORT, PORT, Flavour, SockAddr
from tests.datapath.node import Node
from tests.datapath.services import DROPS, refusing, service
from tests.datapath.sharing import replies, send_at_once

UDP = Protocol.UDP
ALL = [1, 2, 3, 4]
NUMBER = 1
# as many as the backends' receive buffers take before they answer
AT_ONCE = 60
TIMES = 5


@pytest.fixture(params=[False, True], ids=["first", "further"])
def is_further(request: pytest.FixtureRequest) -> bool:
    """Whether the socket uses another service before: the two are remembered differently."""
    return bool(request.param)


class Asker:
    """A socket that has a backend of the service already."""

    def __init__(self, node: Node, flavour: Flavour, *, is_further: bool) -> None:
        self._sock = node.socket(flavour, UDP)
        self._to: SockAddr = flavour.service(NUMBER)
        if is_further:
            ask(self._sock, flavour.service(2))
        self.had = self.answer()

    def answer(self) -> Answer:
        """Return who answers now; the reply always has the service's name."""
        told = ask(self._sock, self._to)
        assert told.source == self._to
        return told.answer

    def error(self) -> str:
        """Return how a datagram fails."""
        return errno_of(lambda: self._sock.sendto(b"?", self._to))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def bound_sockets(flavour: Flavour) -> list[socket.socket]:
    """Return sockets that have a port.

    While a first sendto() binds an IPv6 socket, another thread's leaves it with port 0: the
    kernel itself loses such a reply (inet_autobind in net/ipv4/af_inet.c), with no program near.
    """
    socks = [open_socket(flavour, UDP) for _ in range(AT_ONCE)]
    for sock in socks:
        sock.bind(("", 0))
    return socks


def wanted(family: Family, backends: list[int], **changed: object) -> PortPlan:
    """Return the service of these tests."""
    return service(family, NUMBER, backends, protocol=UDP, **changed)  # type: ignore[arg-type] # handed on


@contextmanager
def asker(node: Node, flavour: Flavour, *, is_further: bool) -> Iterator[Asker]:
    """Give a socket whose service has four backends, and the one it has."""
    node.apply(wanted(flavour.family, ALL), service(flavour.family, 2, [8], protocol=UDP))
    made = Asker(node, flavour, is_further=is_further)
    try:
        yield made
    finally:
        made.close()


def test_a_socket_stays_while_its_backend_is_a_member(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """Other backends come and go: the datagrams of a socket reach the one that it has."""
    with asker(node, flavour, is_further=is_further) as client:
        mine = client.had.backend
        for backends in ([mine], [mine, 5, 6], [5, mine], [5, 6, 7, mine], ALL):
            node.apply(wanted(flavour.family, backends))
            assert {client.answer() for _ in range(4)} == {client.had}


def test_a_socket_moves_when_its_backend_leaves(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """A backend that is no member any more gets no datagram; the next one is kept again."""
    with asker(node, flavour, is_further=is_further) as client:
        left = [n for n in ALL if n != client.had.backend]
        node.apply(wanted(flavour.family, left))
        now = client.answer()
        assert now.backend in left
        assert {client.answer() for _ in range(8)} == {now}


def test_a_socket_moves_with_the_target_port(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """The same endpoints on another port are other members."""
    with asker(node, flavour, is_further=is_further) as client:
        node.apply(wanted(flavour.family, ALL, port=OTHER_PORT))
        assert client.answer().port == OTHER_PORT


def test_a_socket_stays_with_a_member_that_only_serves(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """A terminating backend that still serves gets no new sockets, but keeps those it has."""
    with asker(node, flavour, is_further=is_further) as client:
        mine = client.had.backend
        left = [n for n in ALL if n != mine]
        node.apply(wanted(flavour.family, left, leaving=[mine]))
        assert {client.answer() for _ in range(4)} == {client.had}
        fresh = [Asker(node, flavour, is_further=is_further) for _ in range(8)]
        assert mine not in {each.had.backend for each in fresh}
        for each in fresh:
            each.close()


def test_a_socket_stays_when_the_policy_changes(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """A traffic policy that leaves other endpoints only does not move a socket that has one."""
    with asker(node, flavour, is_further=is_further) as client:
        others = [n for n in ALL if n != client.had.backend]
        local_first = [*others, client.had.backend]
        node.apply(wanted(flavour.family, local_first, local=len(others), flags=DROPS))
        assert {client.answer() for _ in range(4)} == {client.had}


def test_a_socket_of_a_service_that_lost_all_endpoints_is_refused(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """No endpoints: ECONNREFUSED for sockets that had one, and an answer once there is one."""
    with asker(node, flavour, is_further=is_further) as client:
        node.apply(refusing(flavour.family, NUMBER, UDP))
        assert client.error() == "ECONNREFUSED"
        node.apply(wanted(flavour.family, [7]))
        assert client.answer() == Answer(7, PORT)


def test_a_socket_of_a_deleted_service_is_untranslated(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """A deleted service's address is nobody's, for sockets that used it too."""
    with asker(node, flavour, is_further=is_further) as client:
        node.remove(wanted(flavour.family, ALL))
        assert client.error() == "ENETUNREACH"


@pytest.mark.parametrize("has_same_id", [False, True], ids=["another-id", "same-id"])
def test_a_service_made_anew_gives_sockets_its_own_backends(
    node: Node, flavour: Flavour, is_further: bool, has_same_id: bool
) -> None:
    """A service deleted and made again at the same address has none of the old backends."""
    node.reclaim()
    with asker(node, flavour, is_further=is_further) as client:
        node.remove(wanted(flavour.family, ALL))
        if has_same_id:
            node.reclaim()
        again = wanted(flavour.family, [6, 7])
        node.apply(again._replace(created="2027-01-01T00:00:00Z"))
        now = client.answer()
        assert now.backend in {6, 7}
        assert {client.answer() for _ in range(8)} == {now}


def test_an_address_that_another_service_takes_over_has_its_backends(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """The address moves to another service, whose id has been given out just as often before."""
    with asker(node, flavour, is_further=is_further) as client:
        programmed = node.syncers[flavour.family].books.programmed
        mine = programmed[wanted(flavour.family, ALL).name]
        number = max(each.service for each in programmed.values()) + 1
        node.loaded[flavour.family].datapath.publish(number, 0, mine.run.generation - 1)
        node.remove(wanted(flavour.family, ALL))
        taken = service(flavour.family, 4, [6, 7], protocol=UDP)
        node.apply(taken._replace(frontends=wanted(flavour.family, ALL).frontends))
        theirs = programmed[taken.name]
        assert theirs.service == number
        assert theirs.run.generation == mine.run.generation
        now = client.answer()
        assert now.backend in {6, 7}
        assert {client.answer() for _ in range(8)} == {now}


def test_a_connected_socket_stays_whatever_happens(node: Node, flavour: Flavour) -> None:
    """A connected UDP socket has no hook on send(): it keeps its backend and its name."""
    plan = wanted(flavour.family, [3], flags=ServiceFlag.HAS_ENDPOINTS)
    node.apply(plan)
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(NUMBER))
        for change in (wanted(flavour.family, [4]), refusing(flavour.family, NUMBER, UDP)):
            node.apply(change)
            assert ask_connected(sock) == (Answer(3, PORT), flavour.service(NUMBER))


def test_threads_that_share_a_socket_reach_one_backend(
    node: Node, flavour: Flavour, is_further: bool
) -> None:
    """The very first datagrams of a socket, sent at once on two CPUs, reach one backend."""
    node.apply(wanted(flavour.family, ALL), service(flavour.family, 2, [8], protocol=UDP))
    to = [flavour.service(NUMBER)] * 2

    def split() -> int:
        socks = bound_sockets(flavour)
        for sock in socks if is_further else ():
            ask(sock, flavour.service(2))
        with node.paused_backends():
            send_at_once(socks, to)
        return sum(len({told.answer for told in replies(sock, 2)}) > 1 for sock in socks)

    assert node.inside(lambda: sum(split() for _ in range(TIMES))) == 0


def test_rule_19_threads_that_use_two_services_get_both_names(node: Node, flavour: Flavour) -> None:
    """The very first datagrams of a socket go to two services at once: both replies are named."""
    node.apply(wanted(flavour.family, [3]), service(flavour.family, 2, [8], protocol=UDP))
    to = [flavour.service(NUMBER), flavour.service(2)]
    expected = {(Answer(3, PORT), to[0]), (Answer(8, PORT), to[1])}

    def misnamed() -> int:
        socks = bound_sockets(flavour)
        with node.paused_backends():
            send_at_once(socks, to)
        return sum(set(replies(sock, 2)) != expected for sock in socks)

    assert node.inside(lambda: sum(misnamed() for _ in range(TIMES))) == 0

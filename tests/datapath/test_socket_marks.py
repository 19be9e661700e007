# SPDX-License-Identifier: Apache-2.0
"""A socket that ends takes with it what it asked for, and others don't pay for that."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.kernel.pins import CONNECTED
from pyproxy.kernel.sweep import of_sockets, sweep
from pyproxy.model import Family, Protocol
from tests.datapath import children
from tests.datapath.asking import RESET_ON_CLOSE, ask_connected, disconnect, errno_of
from tests.datapath.flavours import KINDS, Flavour, named
from tests.datapath.node import Node
from tests.datapath.services import refusing, service
from tests.datapath.test_other_sockets import IPPROTO_MPTCP, is_unknown
from tests.lab.waiting import wait_for

TCP, UDP = Protocol.TCP, Protocol.UDP
OWN_PORT = 9_000  # of backends that a test is itself, or where nobody listens
SO_COOKIE = 57  # include/uapi/asm-generic/socket.h

Ending = Callable[[Node, Flavour, Protocol, socket.socket], None]


@pytest.fixture(autouse=True)
def nothing_left(node: Node) -> Iterator[None]:
    """Whatever a test does with its sockets, nothing of them is left."""
    assert node.remembered() == 0
    yield
    assert node.remembered() == 0


def connected(node: Node, flavour: Flavour, protocol: Protocol, number: int = 1) -> socket.socket:
    """Return a socket that is connected to a service, and remembered."""
    before = node.remembered()
    sock = node.socket(flavour, protocol)
    sock.connect(flavour.service(number))
    assert node.remembered() == before + 1
    return sock


def socket_marks(node: Node) -> ArrayMap:
    """Return the marks of connected sockets' backends."""
    return ArrayMap(str(node.loaded[Family.IPV4].pins.shared / "socket_marks"), write=True)


def unmark(node: Node) -> None:
    """Clear all of them, whoever needs them."""
    marks = socket_marks(node)
    busy = marks.layout["busy"]
    for offset in range(busy.offset, busy.offset + busy.size):
        marks.clear_bytes(offset)
    marks.close()


def sweep_now(node: Node) -> None:
    """Sweep them as an agent does."""
    marks = socket_marks(node)
    sweep(of_sockets(node.loaded[Family.IPV4].pins.shared), marks, lambda: False)
    marks.close()


def cookie(sock: socket.socket) -> bytes:
    """Return a socket's key in the maps of connected ones."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def is_remembered(node: Node, key: bytes) -> bool:
    """Return whether a map of connected sockets has one."""

    def has(name: str) -> bool:
        with links.opened(node.loaded[Family.IPV4].pins.shared / name) as fd:
            return libbpf.map_lookup(fd, key, libbpf.map_info(fd).value_size) is not None

    return any(map(has, CONNECTED))


def _closed(*_: object) -> None:
    """Nothing happens before it is closed."""


def _used(_node: Node, _flavour: Flavour, _protocol: Protocol, sock: socket.socket) -> None:
    ask_connected(sock)


def _shut(_node: Node, _flavour: Flavour, protocol: Protocol, sock: socket.socket) -> None:
    if protocol is TCP:
        sock.shutdown(socket.SHUT_RDWR)


def _dissolved(_node: Node, _flavour: Flavour, _protocol: Protocol, sock: socket.socket) -> None:
    disconnect(sock)


def _elsewhere(_node: Node, flavour: Flavour, protocol: Protocol, sock: socket.socket) -> None:
    if protocol is TCP:
        disconnect(sock)
    sock.connect(flavour.service(2))
    assert named(sock.getpeername()) == flavour.service(2)


def _directly(node: Node, flavour: Flavour, protocol: Protocol, sock: socket.socket) -> None:
    if protocol is TCP:
        disconnect(sock)
    sock.connect(flavour.backend(5))
    # it is no service's any more, and is forgotten at once
    assert not is_remembered(node, cookie(sock))


def _refused_later(node: Node, flavour: Flavour, protocol: Protocol, sock: socket.socket) -> None:
    node.apply(refusing(flavour.family, 2, protocol))
    if protocol is TCP:
        disconnect(sock)
    assert errno_of(lambda: sock.connect(flavour.service(2))) == "ECONNREFUSED"


ENDINGS: dict[str, Ending] = {
    "closed": _closed, "used": _used, "shut": _shut, "dissolved": _dissolved,
    "elsewhere": _elsewhere, "directly": _directly, "refused-later": _refused_later,
}  # fmt: skip


@pytest.mark.parametrize("swept", [False, True], ids=["", "swept"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_socket_is_forgotten_however_it_ends(
    node: Node, flavour: Flavour, protocol: Protocol, ending: Ending, swept: bool
) -> None:
    """It and nobody else: a second one that is connected to the same backend stays."""
    for number, chosen in ((1, 3), (2, 4)):
        node.apply(service(flavour.family, number, [chosen], protocol=protocol))
    with connected(node, flavour, protocol) as other:
        with connected(node, flavour, protocol) as sock:
            ending(node, flavour, protocol, sock)
            if swept:
                sweep_now(node)
            key = cookie(sock)
        assert not is_remembered(node, key)
        assert is_remembered(node, cookie(other))
        assert named(other.getpeername()) == flavour.service(1)
        assert ask_connected(other).source == flavour.service(1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_flavours_are_forgotten_in_any_order(node: Node, order: tuple[int, ...]) -> None:
    """Each takes its own with it: one map for both families, and IPv4 in IPv6 sockets."""
    for family in Family:
        node.apply(service(family, 1, [3]))
    socks = [connected(node, flavour, TCP) for flavour in Flavour]
    keys = [cookie(sock) for sock in socks]
    for done, each in enumerate(order, start=1):
        socks[each].close()
        left = [key for key in keys if is_remembered(node, key)]
        assert left == [keys[n] for n in sorted(order[done:])]


def test_a_refused_connection_is_forgotten(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """Nobody listens at the backend: the kernel has dissolved the socket when it is closed."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol, port=OWN_PORT))
    with node.socket(flavour, protocol) as sock:
        if protocol is TCP:
            assert errno_of(lambda: sock.connect(flavour.service(1))) == "ECONNREFUSED"
        else:
            sock.connect(flavour.service(1))
            sock.send(b"?")
            assert errno_of(lambda: sock.recv(64)) == "ECONNREFUSED"
        assert node.remembered() == 1
        key = cookie(sock)
    assert not is_remembered(node, key)


def test_a_connection_that_never_came_about_is_forgotten(node: Node, flavour: Flavour) -> None:
    """connect() that was not waited for, and is in progress when the socket is closed."""
    node.apply(service(flavour.family, 1, [3]))
    with node.paused_backends(), node.socket(flavour, TCP) as sock:
        sock.setblocking(False)
        assert errno_of(lambda: sock.connect(flavour.service(1))) in {"EINPROGRESS", ""}
        assert node.remembered() == 1


@pytest.mark.kernel
def test_a_connection_that_was_reset_is_forgotten(node: Node, flavour: Flavour) -> None:
    """The backend resets it: no peer is left to ask for when the socket is closed."""
    node.apply(service(flavour.family, 1, [3], port=OWN_PORT))
    with node.socket(flavour, TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(flavour.backend(3, OWN_PORT))
        listener.listen()
        with connected(node, flavour, TCP) as sock:
            served, _ = listener.accept()
            served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            served.close()
            assert errno_of(lambda: sock.recv(64)) == "ECONNRESET"
            assert errno_of(sock.getpeername) == "ENOTCONN"
            assert node.remembered() == 1


def test_the_last_of_several_descriptors_counts(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A duplicate keeps the socket, and what it asked for, until it is closed too."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    sock = connected(node, flavour, protocol)
    twin = sock.dup()
    sock.close()
    assert node.remembered() == 1
    assert named(twin.getpeername()) == flavour.service(1)
    twin.close()


def test_sockets_of_a_killed_process_are_forgotten(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """Nobody calls close() then."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))

    def work(board: children.Board) -> None:
        socks = [socket.socket(flavour.domain, KINDS[protocol]) for _ in range(8)]
        for sock in socks:
            sock.connect(flavour.service(1))
        board.progress = len(socks)
        signal.pause()

    with node.running(work) as (board, _):
        wait_for(lambda: board.progress, children.patience_s(), "the child's sockets")
        assert node.remembered() == 8


def test_an_mptcp_socket_needs_no_entry(node: Node, flavour: Flavour) -> None:
    """What it asked for is in its own storage, so that nothing has to be forgotten."""
    if is_unknown(node, flavour, TCP, IPPROTO_MPTCP):
        pytest.skip("this kernel has no MPTCP")
    node.apply(service(flavour.family, 1, [3]))
    with node.socket(flavour, TCP, IPPROTO_MPTCP) as sock:
        sock.connect(flavour.service(1))
        assert named(sock.getpeername()) == flavour.service(1)
        assert node.remembered() == 0


def test_many_sockets_leave_nothing(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """A hundred at a time, to many backends, with a sweep while they are there."""
    node.apply(service(flavour.family, 1, range(1, 9), protocol=protocol))
    with ExitStack() as socks:
        for _ in range(100):
            socks.enter_context(connected(node, flavour, protocol))
        sweep_now(node)
        assert node.remembered() == 100
    assert node.remembered() == 0


@pytest.mark.kernel
def test_accepted_sockets_are_not_looked_for(node: Node, flavour: Flavour) -> None:
    """A server's socket passes without a look-up: an entry of its own that we slip in stays.

    Once its peer is marked the entry goes, so that it is the mark that spares the look-up.
    """
    pin = node.loaded[Family.IPV4].pins.shared / "connected"
    for is_marked in (False, True):
        unmark(node)
        with node.socket(flavour, TCP) as listener, node.socket(flavour, TCP) as sock:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(flavour.backend(3, OWN_PORT))
            listener.listen()
            sock.connect(flavour.backend(3, OWN_PORT))
            served, peer = listener.accept()
            with links.opened(pin) as fd:
                key = cookie(served)
                libbpf.map_update(fd, key, bytes(libbpf.map_info(fd).value_size))
                if is_marked:
                    mark_end(node, flavour, peer)
                served.close()
                assert is_remembered(node, key) != is_marked
                libbpf.map_delete(fd, key)


def mark_end(node: Node, flavour: Flavour, end: tuple[str, int]) -> None:
    """Mark an end as if it were some connected socket's backend."""
    text = end[0].removeprefix("::ffff:")
    domain = socket.AF_INET6 if flavour is Flavour.IPV6 else socket.AF_INET
    marks = socket_marks(node)
    index = endpoint_hash(socket.inet_pton(domain, text), end[1])
    marks.write_byte(index, marks.layout["busy"].offset + 1, 1)
    marks.close()

# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets of pods whose backend leaves (rule 20).

No hook sees what they send, and it bears the address of the backend that has left: their packets
go to another one. The far namespace is a pod's, its sockets in the node's cgroup.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.model import Family, Protocol
from tests.datapath.asking import TIMEOUT_S, Answer, Told, ask_connected, errno_of
from tests.datapath.children import Broker, Where
from tests.datapath.covering import Covering, covering
from tests.datapath.flavours import BACKENDS, PORT, Flavour, named
from tests.datapath.node import SMALL, Node, run_ip
from tests.datapath.services import refusing, service
from tests.datapath.wire import FAR, FLAVOURS, NEAR, Wire
from tests.lab import netns

UDP = Protocol.UDP
# nobody else has these addresses: those of other tests' backends are in every namespace
FIRST, SECOND = max(BACKENDS) + 1, max(BACKENDS) + 2


class Pods:
    """Two backends beyond the wire from a client's namespace."""

    def __init__(self, covered: Covering, family: Family, undo: ExitStack) -> None:
        self._covered, self.family, self._undo = covered, family, undo
        self.flavour: Flavour = FLAVOURS[family]
        self._broker = Broker(Where(covered.wire.paths[FAR], covered.node.cgroup))
        undo.callback(self._broker.close)
        length = 8 * family.address_bytes
        dad = " nodad" if family is Family.IPV6 else ""
        for number in (FIRST, SECOND):
            address = self.flavour.backend(number)[0]
            run_ip(covered.wire.paths[NEAR], f"addr add {address}/{length} dev lo{dad}")
        self.servers = {number: self._serve(number) for number in (FIRST, SECOND)}

    def _serve(self, number: int) -> socket.socket:
        made = self._undo.enter_context(self._covered.wire.socket(NEAR, self.family, UDP))
        made.bind(self.flavour.backend(number))
        return made

    def client(self) -> socket.socket:
        """Return a client's socket."""
        made = self._undo.enter_context(self._broker.socket(self.flavour.domain, socket.SOCK_DGRAM))
        made.settimeout(TIMEOUT_S)
        return made

    def apply(self, *backends: int, number: int = 1) -> None:
        """Let a service have these backends."""
        self._covered.node.apply(service(self.family, number, backends, protocol=UDP, local=2))

    def asks(self, client: socket.socket, backend: int) -> None:
        """Assert that the next datagram reaches this backend, and its answer the client."""
        client.send(b"who?")
        asked, peer = self.servers[backend].recvfrom(64)
        assert asked == b"who?"
        assert named(peer)[0] == named(client.getsockname())[0]
        self.servers[backend].sendto(b"me", peer)
        assert client.recv(64) == b"me"


@pytest.fixture
def pods(covered: Covering, family: Family) -> Iterator[Pods]:
    """A client's namespace and two backends."""
    with ExitStack() as undo:
        yield Pods(covered, family, undo)


def counters(pods: Pods, covered: Covering) -> dict[str, int]:
    """Return what was counted."""
    return covered.node.counters(pods.family)


@pytest.mark.kernel
def test_rule_20_a_connected_socket_gets_another_backend(pods: Pods, covered: Covering) -> None:
    """The same socket with the same ports, and it never sees more than the service."""
    pods.apply(FIRST)
    client = pods.client()
    client.connect(pods.flavour.service(1))
    name = client.getsockname()
    before = counters(pods, covered)
    pods.asks(client, FIRST)
    assert counters(pods, covered)["packet_open"] == before["packet_open"]
    pods.apply(SECOND)
    for _ in range(3):
        pods.asks(client, SECOND)
    assert counters(pods, covered)["packet_open"] == before["packet_open"] + 1
    assert client.getsockname() == name
    assert named(client.getpeername()) == pods.flavour.service(1)


@pytest.mark.parametrize("anew", [False, True], ids=["agent", "another-agent"])
def test_rule_20_another_services_backend_is_no_longer_the_sockets(
    pods: Pods, covered: Covering, anew: bool
) -> None:
    """A pod that moves from one service to another answers nobody who asked for the first one."""
    pods.apply(FIRST)
    client, other = pods.client(), pods.client()
    client.connect(pods.flavour.service(1))
    pods.apply(SECOND)
    pods.apply(FIRST, number=2)
    other.connect(pods.flavour.service(2))
    if anew:
        covered.node.make_syncers()
    pods.asks(client, SECOND)
    before = counters(pods, covered)
    pods.asks(other, FIRST)
    assert counters(pods, covered) == before


def test_rule_20_it_stays_with_that_one(pods: Pods) -> None:
    """Changes of other services move nobody; when that one leaves as well, it moves again."""
    pods.apply(FIRST)
    client = pods.client()
    client.connect(pods.flavour.service(1))
    pods.apply(SECOND)
    pods.asks(client, SECOND)
    pods.apply(SECOND, number=2)
    pods.apply(FIRST, SECOND)
    for _ in range(8):
        pods.asks(client, SECOND)
    pods.apply(FIRST)
    pods.asks(client, FIRST)


def test_rule_20_without_a_backend_it_is_refused(pods: Pods, covered: Covering) -> None:
    """As is whoever asks the service then; and it is served again with the next backend."""
    pods.apply(FIRST)
    client = pods.client()
    client.connect(pods.flavour.service(1))
    covered.node.apply(refusing(pods.family, 1, UDP))
    client.send(b"who?")
    assert errno_of(lambda: client.recv(64)) == "ECONNREFUSED"
    pods.apply(SECOND)
    pods.asks(client, SECOND)


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "unconnected"])
def test_rule_20_what_was_meant_for_the_backend_reaches_it(
    pods: Pods, covered: Covering, is_connected: bool
) -> None:
    """A pod that serves no more may be asked by its own address as before."""
    pods.apply(FIRST)
    pods.apply(SECOND)
    client, to = pods.client(), pods.flavour.backend(FIRST)
    if is_connected:
        client.connect(to)
    before = counters(pods, covered)
    for _ in range(2):
        client.sendmsg([b"who?"], [], 0, None if is_connected else to)
        assert pods.servers[FIRST].recvfrom(64)[0] == b"who?"
    assert counters(pods, covered) == before


def test_rule_20_a_backend_that_serves_yet_is_kept(pods: Pods, covered: Covering) -> None:
    """It gets nothing new, but what it has it keeps, as with conntrack."""
    pods.apply(FIRST)
    client = pods.client()
    client.connect(pods.flavour.service(1))
    pods.apply(SECOND)
    leaving = service(pods.family, 1, [SECOND], protocol=UDP, local=1, leaving=[FIRST])
    covered.node.apply(leaving)
    pods.asks(client, FIRST)


def test_rule_20_a_new_agent_knows_what_the_former_one_did(pods: Pods, covered: Covering) -> None:
    """Its backend left before it, or while there was none."""
    pods.apply(FIRST)
    client = pods.client()
    client.connect(pods.flavour.service(1))
    pods.apply(SECOND)
    covered.node.make_syncers()
    pods.asks(client, SECOND)


def test_rule_20_beyond_the_map_sockets_have_their_storage(
    small: Node, family: Family, tmp_path: Path
) -> None:
    """What the full map of connected sockets has no room for is found as well."""
    with ExitStack() as undo:
        wire, tcx = Wire(small, undo), libbpf.tcx_exists()
        pods = Pods(undo.enter_context(covering(small, wire, tmp_path, tcx=tcx)), family, undo)
        pods.apply(FIRST)
        clients = [pods.client() for _ in range(SMALL.max_connected_udp + 1)]
        for client in clients:
            client.connect(pods.flavour.service(1))
        pods.apply(SECOND)
        for client in clients:
            pods.asks(client, SECOND)


def test_rule_20_tcp_sockets_take_nobodys_place(small: Node, flavour: Flavour) -> None:
    """However many there are, UDP sockets of the node are found."""
    both = [service(flavour.family, n, [n], protocol=p) for n, p in ((1, Protocol.TCP), (2, UDP))]
    small.apply(*both)
    with ExitStack() as undo:
        for _ in range(SMALL.max_connected + 1):
            undo.enter_context(small.socket(flavour, Protocol.TCP)).connect(flavour.service(1))
        for _ in range(SMALL.max_connected_udp):
            undo.enter_context(small.socket(flavour, UDP)).connect(flavour.service(2))
        small.apply(service(flavour.family, 2, [3], protocol=UDP))
        ended = netns.inside(small.namespace, small.loaded[flavour.family].datapath.end_left)
        assert ended == SMALL.max_connected_udp


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("the service", marks=pytest.mark.kernel),
        "the backend",
        "the other service",
        "another with it",
    ],
)
def test_rule_20_a_socket_of_the_node_is_told(node: Node, flavour: Flavour, asked: str) -> None:
    """No packet of its can be led elsewhere: it has to connect anew."""
    both = [service(flavour.family, n, [n], protocol=UDP) for n in (1, 2)]
    node.apply(*both, service(flavour.family, 4, [1], protocol=UDP))
    to = {
        "the service": flavour.service(1),
        "the backend": flavour.backend(1),
        "the other service": flavour.service(2),
        "another with it": flavour.service(4),
    }
    with node.socket(flavour, UDP) as sock:
        sock.connect(to[asked])
        node.apply(service(flavour.family, 1, [3], protocol=UDP))
        ended = netns.inside(node.namespace, node.loaded[flavour.family].datapath.end_left)
        assert ended == (asked == "the service")
        if ended:
            assert errno_of(lambda: sock.recv(64)) == "ECONNABORTED"
            sock.connect(to[asked])
            assert ask_connected(sock) == Told(Answer(3, PORT), to[asked])
        assert netns.inside(node.namespace, node.loaded[flavour.family].datapath.end_left) == 0

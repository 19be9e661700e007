# SPDX-License-Identifier: Apache-2.0
"""connect(): TCP and connected UDP sockets, of every family."""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import Frontend, FrontendKey, Kind
from tests.datapath.asking import Answer, ask_connected, disconnect, draw, errno_of, open_socket
from tests.datapath.flavours import OTHER_PORT, PORT, SERVICE_PORT, Flavour, named
from tests.datapath.node import Node
from tests.datapath.services import dropping, refusing, service
from tests.lab.evenness import evenness

DRAWS = 2000
# one run in a million is this uneven by chance
IMPROBABLE = 1e-6


@pytest.mark.kernel
def test_a_connected_socket_shows_the_service(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """connect() reaches the backend, and getpeername() and recvfrom() say the service."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    with node.counting(flavour.family, connect=1), node.socket(flavour, protocol) as sock:
        sock.connect(flavour.service(1))
        assert named(sock.getpeername()) == flavour.service(1)
        assert ask_connected(sock) == (Answer(3, PORT), flavour.service(1))


@pytest.mark.kernel
def test_a_service_without_endpoints_refuses(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """connect() to a service without endpoints fails with ECONNREFUSED, never with EPERM."""
    node.apply(refusing(flavour.family, 1, protocol))
    with node.counting(flavour.family, refused=1), node.socket(flavour, protocol) as sock:
        assert errno_of(lambda: sock.connect(flavour.service(1))) == "ECONNREFUSED"


@pytest.mark.parametrize("text", ["fd00:96::ffff:a60:1", "0:0:0:1:0:ffff:a60:1"])
def test_addresses_that_only_look_like_mapped_ones(
    node: Node, protocol: Protocol, text: str
) -> None:
    """An address of IPv6 is mapped by its first 96 bits, and by no part of them."""
    plan = service(Family.IPV6, 1, [3], protocol=protocol)
    key = FrontendKey(socket.inet_pton(socket.AF_INET6, text), SERVICE_PORT, int(protocol))
    node.apply(plan._replace(frontends=(Frontend(key, Kind.CLUSTER_IP),)))
    with node.socket(Flavour.IPV6, protocol) as sock:
        sock.connect((text, SERVICE_PORT))
        assert ask_connected(sock)[0] == Answer(3, PORT)


def test_a_local_policy_without_local_endpoints_is_left_to_drop(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """What kube-proxy drops is not translated, so that its packets can be dropped (A8.2)."""
    node.apply(dropping(flavour.family, 1, protocol))
    with node.counting(flavour.family, left_to_drop=1), node.socket(flavour, protocol) as sock:
        assert errno_of(lambda: sock.connect(flavour.service(1))) == "ENETUNREACH"


def test_a_local_policy_uses_local_endpoints_only(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """InternalTrafficPolicy Local: connections reach the endpoints on this node alone."""
    node.apply(dropping(flavour.family, 1, protocol, local=1))
    to = flavour.service(1)
    reached = node.inside(lambda: {draw(flavour, protocol, to).backend for _ in range(50)})
    assert reached == {1}


def test_other_addresses_and_ports_are_untouched(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A pod's own address, another port of a service and another protocol are not translated."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    other = Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP
    with node.counting(flavour.family):
        with node.socket(flavour, protocol) as sock:
            sock.connect(flavour.backend(5))
            assert ask_connected(sock) == (Answer(5, PORT), flavour.backend(5))
        for kind, to in ((protocol, flavour.service(1, 81)), (other, flavour.service(1))):
            with node.socket(flavour, kind) as sock:
                assert errno_of(lambda: sock.connect(to)) == "ENETUNREACH"  # noqa: B023 - at once


def test_one_address_serves_both_protocols(node: Node, flavour: Flavour) -> None:
    """TCP and UDP of one service address and port have backends of their own."""
    node.apply(
        service(flavour.family, 1, [3], protocol=Protocol.TCP),
        service(flavour.family, 1, [4], protocol=Protocol.UDP),
    )
    to = flavour.service(1)
    reached = [draw(flavour, p, to, node.make_socket).backend for p in (Protocol.TCP, Protocol.UDP)]
    assert reached == [3, 4]


def test_a_socket_that_does_not_block_connects(node: Node, flavour: Flavour) -> None:
    """A connect() that does not wait is translated and refused just the same."""
    node.apply(service(flavour.family, 1, [3]), refusing(flavour.family, 2))
    with node.socket(flavour, Protocol.TCP) as sock:
        sock.setblocking(False)
        assert errno_of(lambda: sock.connect(flavour.service(1))) == "EINPROGRESS"
        assert select.select([sock], [], [], 20)[0]
        assert ask_connected(sock) == (Answer(3, PORT), flavour.service(1))
    with node.socket(flavour, Protocol.TCP) as sock:
        sock.setblocking(False)
        assert sock.connect_ex(flavour.service(2)) == errno.ECONNREFUSED


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda p: p.name)
def test_rule_19_a_reconnect_to_no_service_shows_the_real_peer(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A socket that was a service's and connects to its very backend shows that backend."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    with node.socket(flavour, protocol) as sock:
        sock.connect(flavour.service(1))
        assert named(sock.getpeername()) == flavour.service(1)
        disconnect(sock)
        assert errno_of(sock.getpeername) == "ENOTCONN"
        sock.connect(flavour.backend(3))
        assert named(sock.getpeername()) == flavour.backend(3)
        assert ask_connected(sock) == (Answer(3, PORT), flavour.backend(3))


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda p: p.name)
def test_a_refused_reconnect_forgets_the_former_service(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A socket whose next connect() was refused shows nothing of the service before."""
    node.apply(
        service(flavour.family, 1, [3], protocol=protocol), refusing(flavour.family, 2, protocol)
    )
    with node.socket(flavour, protocol) as sock:
        sock.connect(flavour.service(1))
        disconnect(sock)
        assert errno_of(lambda: sock.connect(flavour.service(2))) == "ECONNREFUSED"
        sock.connect(flavour.service(1))
        assert ask_connected(sock) == (Answer(3, PORT), flavour.service(1))


def test_an_ipv6_socket_uses_services_of_both_families(node: Node) -> None:
    """One IPv6 socket connects to an IPv6 service, then to a mapped one: each is shown."""
    for flavour in (Flavour.IPV4, Flavour.IPV6):
        node.apply(service(flavour.family, 1, [flavour.family.value], protocol=Protocol.UDP))
    with node.socket(Flavour.IPV6, Protocol.UDP) as sock:
        for flavour in (Flavour.IPV6, Flavour.MAPPED, Flavour.IPV6):
            sock.connect(flavour.service(1))
            expected = (Answer(flavour.family.value, PORT), flavour.service(1))
            assert ask_connected(sock) == expected
            disconnect(sock)


def test_the_backends_port_is_the_services_target_port(node: Node, flavour: Flavour) -> None:
    """A new target port counts for the next connection."""
    to = flavour.service(1)
    for port in (PORT, OTHER_PORT):
        node.apply(service(flavour.family, 1, [3], port=port))
        assert draw(flavour, Protocol.TCP, to, node.make_socket) == Answer(3, port)


def test_a_deleted_service_is_untranslated(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """Once a service is gone its address is nobody's."""
    plan = service(flavour.family, 1, [3], protocol=protocol)
    node.apply(plan)
    node.remove(plan)
    with node.counting(flavour.family), node.socket(flavour, protocol) as sock:
        assert errno_of(lambda: sock.connect(flavour.service(1))) == "ENETUNREACH"


def test_connections_outlive_their_service(node: Node, flavour: Flavour) -> None:
    """A connection that stands goes on, and keeps its name, when the service is deleted."""
    plan = service(flavour.family, 1, [3])
    node.apply(plan)
    with node.socket(flavour, Protocol.TCP) as sock:
        sock.connect(flavour.service(1))
        node.remove(plan)
        sock.send(b"still there?")
        assert ask_connected(sock) == (Answer(3, PORT), flavour.service(1))


@pytest.mark.parametrize(
    ("flavour", "protocol"),
    [
        (Flavour.IPV4, Protocol.TCP),
        (Flavour.IPV6, Protocol.TCP),
        (Flavour.MAPPED, Protocol.TCP),
        (Flavour.IPV4, Protocol.UDP),
    ],
    ids=["ipv4-TCP", "ipv6-TCP", "mapped-TCP", "ipv4-UDP"],
)
def test_every_backend_is_as_likely(node: Node, flavour: Flavour, protocol: Protocol) -> None:
    """2,000 new sockets spread evenly over five backends (A4.7), by chi-square."""
    backends = [2, 3, 5, 7, 8]
    node.apply(service(flavour.family, 1, backends, protocol=protocol))
    to = flavour.service(1)

    def draws() -> Counter[int]:
        return Counter(draw(flavour, protocol, to).backend for _ in range(DRAWS))

    counts = node.inside(draws)
    assert sorted(counts) == backends
    assert evenness(counts.values()) > IMPROBABLE


def test_a_child_can_open_sockets_itself(node: Node) -> None:
    """A process in the cgroup is translated the same whether a socket is passed to it or not."""
    node.apply(service(Flavour.IPV4.family, 1, [3]))

    def connect() -> tuple[str, int]:
        with open_socket(Flavour.IPV4, Protocol.TCP) as sock:
            sock.connect(Flavour.IPV4.service(1))
            return named(sock.getpeername())

    assert node.inside(connect) == Flavour.IPV4.service(1)

# SPDX-License-Identifier: Apache-2.0
"""Sockets of other protocols: MPTCP is TCP to a service, everything else is left alone."""

from __future__ import annotations

import socket

import pytest

from pyproxy.model import Protocol
from tests.datapath.asking import Answer, ask_connected, errno_of
from tests.datapath.flavours import PORT, Flavour, named
from tests.datapath.node import Node
from tests.datapath.services import refusing, service

IPPROTO_MPTCP = 262  # RFC 8684
IPPROTO_UDPLITE = 136  # RFC 3828
# what socket() says of a protocol that the kernel was built without
UNKNOWN_PROTOCOLS = ("EPROTONOSUPPORT", "ENOPROTOOPT")


def is_unknown(node: Node, flavour: Flavour, protocol: Protocol, number: int) -> bool:
    """Return whether the kernel has no such protocol; any other failure is one."""
    error = errno_of(lambda: node.socket(flavour, protocol, number).close())
    assert error in ("", *UNKNOWN_PROTOCOLS)
    return error in UNKNOWN_PROTOCOLS


@pytest.mark.kernel
def test_mptcp_is_tcp(node: Node, flavour: Flavour) -> None:
    """An MPTCP socket reaches a TCP service's backend and is refused like TCP."""
    if is_unknown(node, flavour, Protocol.TCP, IPPROTO_MPTCP):
        return
    node.apply(service(flavour.family, 1, [3]), refusing(flavour.family, 2))
    with node.socket(flavour, Protocol.TCP, IPPROTO_MPTCP) as sock:
        sock.connect(flavour.service(1))
        assert Answer(*map(int, sock.recv(64).split())) == Answer(3, PORT)
        assert named(sock.getpeername()) == flavour.service(1)
    with node.socket(flavour, Protocol.TCP, IPPROTO_MPTCP) as sock:
        assert errno_of(lambda: sock.connect(flavour.service(2))) == "ECONNREFUSED"


def test_udp_lite_is_untouched(node: Node, flavour: Flavour) -> None:
    """UDP-Lite has no services: a UDP service's address is nobody's for it."""
    if is_unknown(node, flavour, Protocol.UDP, IPPROTO_UDPLITE):
        return
    node.apply(service(flavour.family, 1, [3], protocol=Protocol.UDP))
    with (
        node.counting(flavour.family),
        node.socket(flavour, Protocol.UDP, IPPROTO_UDPLITE) as sock,
    ):
        assert errno_of(lambda: sock.sendto(b"?", flavour.service(1))) == "ENETUNREACH"
        assert errno_of(lambda: sock.connect(flavour.service(1))) == "ENETUNREACH"
        sock.connect(flavour.backend(3))
        assert named(sock.getpeername()) == flavour.backend(3)


@pytest.mark.parametrize("kind", [socket.SOCK_RAW, socket.SOCK_DGRAM], ids=["raw", "ping"])
@pytest.mark.parametrize("flavour", [Flavour.IPV4, Flavour.IPV6], ids=["ipv4", "ipv6"])
def test_icmp_is_untouched(node: Node, flavour: Flavour, kind: int) -> None:
    """Raw and ping sockets see a service's address as it is."""
    number = socket.IPPROTO_ICMP if flavour is Flavour.IPV4 else socket.IPPROTO_ICMPV6
    for protocol in Protocol.TCP, Protocol.UDP:
        node.apply(service(flavour.family, 1, [3], protocol=protocol))
    to = flavour.service(1, 0)
    with node.counting(flavour.family), node.make_socket(flavour.domain, kind, number) as sock:
        for port in (0, flavour.service(1)[1]):
            assert errno_of(lambda: sock.connect((to[0], port))) == "ENETUNREACH"  # noqa: B023 - at once
        echo = bytes([8 if flavour is Flavour.IPV4 else 128, *bytes(7)])
        assert errno_of(lambda: sock.sendto(echo, to)) == "ENETUNREACH"


@pytest.mark.parametrize("flavour", [Flavour.IPV4, Flavour.IPV6], ids=["ipv4", "ipv6"])
def test_raw_sockets_of_tcp_and_udp_are_untouched(node: Node, flavour: Flavour) -> None:
    """A raw socket that speaks TCP or UDP itself is not translated, whatever its protocol."""
    for protocol in Protocol.TCP, Protocol.UDP:
        node.apply(service(flavour.family, 1, [3], protocol=protocol))
        with (
            node.counting(flavour.family),
            node.make_socket(flavour.domain, socket.SOCK_RAW, protocol) as sock,
        ):
            assert errno_of(lambda: sock.connect((flavour.service(1)[0], 0))) == "ENETUNREACH"


@pytest.mark.parametrize(
    ("protocol", "number"),
    [(Protocol.TCP, 0), (Protocol.UDP, 0), (Protocol.TCP, IPPROTO_MPTCP)],
    ids=["TCP", "UDP", "MPTCP"],
)
def test_a_socket_that_ends_leaves_nothing(
    node: Node, flavour: Flavour, protocol: Protocol, number: int
) -> None:
    """What connected sockets asked for is forgotten with the last descriptor of each."""
    if number and is_unknown(node, flavour, protocol, number):
        return
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    before = node.remembered()
    socks = [node.socket(flavour, protocol, number) for _ in range(5)]
    for sock in socks:
        sock.connect(flavour.service(1))
    twin = socks[0].dup()
    for sock in socks:
        sock.close()
    # what an MPTCP socket asked for is in its own storage
    assert node.remembered() == before + (number == 0)
    if not number:
        assert ask_connected(twin).source == flavour.service(1)
    twin.close()
    assert node.remembered() == before

# SPDX-License-Identifier: Apache-2.0
"""What is none of the packet path's business passes to the next program, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, plan, refusing
from tests.datapath.flavours import PORT
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, ETH_P, FIN, IP_BYTES, PLAIN, PSH, RST, SYN, ether
from tests.datapath.prog_run import TC_NEXT, Ran

TCP, UDP = Protocol.TCP, Protocol.UDP
REFUSED = 2
BOTH = tuple(Family)
V4, V6 = (Family.IPV4,), (Family.IPV6,)

Build = Callable[[Family], bytes]


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an Ethernet device; services that answer and that refuse."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol), refusing(family, protocol, REFUSED))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def flags(value: int, number: int = 1) -> Build:
    """Return what builds a TCP segment with these flags to a service."""
    return lambda f: p.tcp(client(f), frontend(f, number), value, b"text")


def other(proto: int, payload: bytes) -> Build:
    """Return what builds a packet of another kind to the address of a service."""
    return lambda f: p.ip(client(f).address, frontend(f).address, proto, payload)


def raw(family: Family) -> bytes:
    """Return a SYN to the service, its IP header apart."""
    return p.tcp(client(family), frontend(family), SYN)[IP_BYTES[family] :]


def syn(family: Family, head: p.Head = PLAIN, proto: int = TCP, data: bytes = b"") -> bytes:
    """Return a SYN to the service with something odd about its IP header."""
    return p.ip(client(family).address, frontend(family).address, proto, data or raw(family), head)


PACKETS: dict[str, Build] = {
    "syn-ack": flags(SYN | ACK),
    "ack": flags(ACK),
    "data": flags(ACK | PSH),
    "fin": flags(FIN | ACK),
    "fin-alone": flags(FIN),
    "syn-fin": flags(SYN | FIN),
    "syn-rst": flags(SYN | RST),
    "rst": flags(RST),
    "rst-ack": flags(RST | ACK),
    "no-flags": flags(0),
    "ack-to-one-that-refuses": flags(ACK, REFUSED),
    "another-tcp-port": lambda f: p.tcp(client(f), frontend(f, port=81), SYN),
    "another-udp-port": lambda f: p.udp(client(f), frontend(f, port=81)),
    "its-port-as-source": lambda f: p.tcp(frontend(f), client(f, port=80), SYN),
    "another-address": lambda f: p.tcp(client(f), frontend(f, 9), SYN),
    "to-a-backend": lambda f: p.tcp(client(f), backend(f), SYN),
    "datagram-to-a-backend": lambda f: p.udp(client(f), backend(f)),
    "icmp-echo": lambda f: p.icmp(
        client(f).address, frontend(f).address, 8 if f is Family.IPV4 else 128, 0, bytes(8)
    ),
    "icmp-of-the-other-family": lambda f: syn(f, proto=p.ICMPV6 if f is Family.IPV4 else p.ICMP),
    "sctp": lambda f: syn(f, proto=p.SCTP),
    "protocol-255": lambda f: syn(f, proto=255),
    "empty-tcp": other(TCP, b""),
    "empty-udp": other(UDP, b""),
}  # fmt: skip


@pytest.mark.parametrize("build", PACKETS.values(), ids=PACKETS)
def test_packets_that_pass_in(hooks: Hooks, build: Build) -> None:
    """They leave nothing behind and are not counted."""
    packet = build(hooks.family)
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(packet) == passed(packet)
    assert not hooks.table.entries()
    assert not hooks.table.claimed()


OUT: dict[str, Build] = {
    "to-a-client": lambda f: p.tcp(backend(f), client(f), SYN | ACK),
    "datagram-to-a-client": lambda f: p.udp(backend(f), client(f)),
    "to-another-port-of-a-service": lambda f: p.tcp(client(f), frontend(f, port=81), SYN),
    "tcp-of-a-socket-on-a-frontend": lambda f: p.tcp(frontend(f), client(f), SYN),
    "answer-of-a-socket-on-a-frontend": lambda f: p.tcp(frontend(f), client(f), SYN | ACK),
    "datagram-of-another-port": lambda f: p.udp(frontend(f, port=81), client(f)),
    "icmp-echo": PACKETS["icmp-echo"],
    "sctp": PACKETS["sctp"],
}


@pytest.mark.parametrize("build", OUT.values(), ids=OUT)
def test_packets_that_pass_out(hooks: Hooks, build: Build) -> None:
    """What leaves and belongs to no connection of the packet path is left alone."""
    packet = build(hooks.family)
    with hooks.node.counting(hooks.family):
        assert hooks.egress(packet) == passed(packet)
    assert not hooks.table.entries()


FRAMES: dict[str, tuple[tuple[Family, ...], Build]] = {
    "options-cut-off": (V4, lambda f: framed(f, syn(f, PLAIN._replace(options=bytes(40)))[:60])),
    "header-too-short": (V4, lambda f: framed(f, syn(f, PLAIN._replace(words=4)))),
    "no-header-length": (V4, lambda f: framed(f, syn(f, PLAIN._replace(words=0)))),
    "version-5": (BOTH, lambda f: framed(f, syn(f, PLAIN._replace(version=5)))),
    "version-0": (V4, lambda f: framed(f, syn(f, PLAIN._replace(version=0)))),
    "tagged": (BOTH, lambda f: p.vlan(syn(f), ETH_P[f])),
    "arp": (BOTH, lambda _: ether(p.arp(), p.ETH_P_ARP)),
    "ip-called-arp": (BOTH, lambda f: ether(syn(f), p.ETH_P_ARP)),
    "ipv4-called-ipv6": (V4, lambda f: ether(syn(f), ETH_P[Family.IPV6])),
    "ipv6-called-ipv4": (V6, lambda f: ether(syn(f), ETH_P[Family.IPV4])),
    "mpls": (BOTH, lambda f: ether(syn(f), 0x8847)),
    "length-field-as-type": (BOTH, lambda f: ether(syn(f), 60)),
}  # fmt: skip


def framed(family: Family, packet: bytes) -> bytes:
    """Return a packet in a frame."""
    return ether(packet, ETH_P[family])


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_all_kinds(hooks: Hooks, name: str) -> None:
    """What has no transport header of its own, or is no IP, passes on both sides."""
    families, build = FRAMES[name]
    family = hooks.family if hooks.family in families else families[0]
    frame = build(family)
    with hooks.node.counting(family):
        for side in ("ingress", "egress"):
            assert hooks.frame(side, frame) == passed(frame)
    assert not hooks.table.claimed()


def test_a_packet_may_or_may_not_be_fragmented_later(hooks: Hooks) -> None:
    """The flag "do not fragment" is no fragment (RFC 791 3.1): with or without it is served."""
    family = hooks.family
    for fragment in (0, p.DO_NOT_FRAGMENT):
        head = PLAIN._replace(fragment=fragment)
        sent, arrives = (
            p.tcp(client(family), to, SYN, head=head) for to in (frontend(family), backend(family))
        )
        assert hooks.ingress(sent) == passed(arrives)


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_truncated_packets(hooks: Hooks, protocol: Protocol, side: str) -> None:
    """A packet cut off before its transport header ends passes; from there on it is served."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    whole, wanted = (hooks.first(protocol, c, f), hooks.first(protocol, c, b))
    if side == "egress":
        whole, wanted = (hooks.answer(protocol, by, c) for by in (b, f))
    transport = 20 if protocol is TCP else 8
    for length in range(IP_BYTES[family], len(whole) + 1):
        cut = whole[:length]
        is_served = length >= IP_BYTES[family] + transport
        after: Ran = hooks.ingress(cut) if side == "ingress" else hooks.egress(cut)
        assert after == Ran(TC_NEXT, wanted[:length] if is_served else cut), length


def test_the_ipv6_programs_leave_ipv4_alone(hooks: Hooks) -> None:
    """They are entered from the IPv4 ones, and would do no harm on a device of their own."""
    four = framed(Family.IPV4, p.tcp(client(Family.IPV4), frontend(Family.IPV4), SYN))
    hooks.node.apply(plan(Family.IPV4, TCP))
    for name in ("ingress", "egress", "ingress_l3", "egress_l3"):
        with hooks.opened(Family.IPV6, name) as run:
            assert run(four) == passed(four)
    assert not hooks.table.claimed()


def test_udp_and_tcp_are_apart(node: Node, family: Family, tmp_path: Path) -> None:
    """A port of one protocol says nothing of the other's."""
    node.apply(plan(family, TCP))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as hooks:
        datagram = hooks.udp(client(family), frontend(family))
        assert hooks.ingress(datagram) == passed(datagram)
        stray = hooks.udp(backend(family, port=PORT), client(family))
        hooks.ingress(hooks.tcp(client(family), frontend(family), SYN))
        assert hooks.egress(stray) == passed(stray)

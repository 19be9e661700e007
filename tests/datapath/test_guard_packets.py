# SPDX-License-Identifier: Apache-2.0
"""The guard's verdict on every kind of packet: it drops first packets to services that drop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyproxy.kernel.datapath import SETTING_DROPPING
from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.flavours import backend_address, service_address
from tests.datapath.node import Node
from tests.datapath.packets import ACK, ECE, ETH_P, FIN, PSH, RST, SYN, ether, first_of, packet
from tests.datapath.prog_run import ETHERNET_BYTES, IP_BYTES, TC_DROP, TC_NEXT, run
from tests.datapath.services import dropping, refusing, service

pytestmark = pytest.mark.kernel

TCP, UDP = Protocol.TCP, Protocol.UDP
DROPS, REFUSES, ANSWERS, LOCAL, NOBODY = 1, 2, 3, 4, 5
BOTH = tuple(Family)
V4, V6 = (Family.IPV4,), (Family.IPV6,)

Build = Callable[[Family], bytes]


@pytest.fixture
def services(node: Node, family: Family) -> Node:
    """The node with a service of every kind, for both protocols."""
    for protocol in (TCP, UDP):
        node.apply(
            dropping(family, DROPS, protocol),
            refusing(family, REFUSES, protocol),
            service(family, ANSWERS, [1], protocol=protocol),
            dropping(family, LOCAL, protocol, local=1),
        )
    return node


def to(number: int, protocol: Protocol) -> Build:
    """Return what builds the first packet of a connection to a service."""
    return lambda family: packet(family, first_of(protocol), protocol, number)


def flags(value: int) -> Build:
    """Return what builds a TCP segment with these flags to the service that drops."""
    return lambda family: packet(family, p.tcp(value), TCP, DROPS)


def other(proto: int, payload: bytes) -> Build:
    """Return what builds a packet of another kind to the address of the service that drops."""
    return lambda family: packet(family, payload, proto, DROPS)


DROPPED: dict[str, Build] = {
    "syn": flags(SYN),
    "syn-that-offers-ecn": flags(SYN | ECE | p.CWR),
    "syn-with-push": flags(SYN | PSH),
    "datagram": to(DROPS, UDP),
    "empty-datagram": other(UDP, p.udp(payload=b"")),
}

PASSED: dict[str, Build] = {
    "syn-ack": flags(SYN | ACK),
    "ack": flags(ACK),
    "data": flags(ACK | PSH),
    "fin": flags(FIN | ACK),
    "rst": flags(RST),
    "rst-ack": flags(RST | ACK),
    "no-flags": flags(0),
    "another-tcp-port": other(TCP, p.tcp(SYN, 81)),
    "another-udp-port": other(UDP, p.udp(81)),
    "its-port-as-source": other(TCP, p.tcp(SYN, 40000, source=80)),
    "another-address": to(NOBODY, TCP),
    "tcp-to-endpoints": to(ANSWERS, TCP),
    "udp-to-endpoints": to(ANSWERS, UDP),
    "tcp-to-local-endpoints": to(LOCAL, TCP),
    "udp-to-local-endpoints": to(LOCAL, UDP),
    "tcp-refused": to(REFUSES, TCP),
    "udp-refused": to(REFUSES, UDP),
    "icmp": other(p.ICMP, bytes([8, 0, 0, 80, 0, 80, 0, 80])),
    "icmpv6": other(p.ICMPV6, bytes([128, 0, 0, 80, 0, 80, 0, 80])),
    "sctp": other(p.SCTP, p.tcp(SYN)),
    "protocol-255": other(255, p.tcp(SYN)),
    "to-a-pod": lambda f: packet(f, p.tcp(SYN), TCP, DROPS).replace(
        service_address(f, DROPS), backend_address(f, 1)
    ),
}


@pytest.mark.parametrize("program", ["guard", "guard_l3"])
@pytest.mark.parametrize("build", DROPPED.values(), ids=DROPPED)
def test_first_packets_to_a_service_that_drops_are_dropped(
    services: Node, family: Family, build: Build, program: str
) -> None:
    """A SYN and a datagram to a service whose policy drops end here, and are counted (A8.2)."""
    with services.counting(family, guard_drop=1):
        assert verdict(services, family, program, build(family)) == TC_DROP


@pytest.mark.parametrize("program", ["guard", "guard_l3"])
@pytest.mark.parametrize("build", PASSED.values(), ids=PASSED)
def test_other_packets_pass_to_the_next_program(
    services: Node, family: Family, build: Build, program: str
) -> None:
    """Everything else is none of the guard's business: "next", which is never "accept"."""
    with services.counting(family):
        assert verdict(services, family, program, build(family)) == TC_NEXT


def verdict(node: Node, family: Family, program: str, data: bytes) -> int:
    """Return what a program says of an IP packet; `guard` gets it in an Ethernet frame.

    A packet without link layer is padded: the kernel takes its begin for an Ethernet header.
    """
    framed = ether(data, ETH_P[family]) if program == "guard" else data + bytes(ETHERNET_BYTES)
    return run(node.loaded[family].programs / program, framed)


def test_with_nothing_to_drop_everything_passes(services: Node, family: Family) -> None:
    """The setting counts the services that drop: while it is 0 the guard looks at nothing."""
    data = to(DROPS, TCP)(family)
    settings = services.loaded[family].datapath.settings
    before = int.from_bytes(settings.read(SETTING_DROPPING), "little")
    assert before == 2
    settings.store(SETTING_DROPPING, 0)
    with services.counting(family):
        assert verdict(services, family, "guard", data) == TC_NEXT
    settings.store(SETTING_DROPPING, before)
    assert verdict(services, family, "guard", data) == TC_DROP


def test_what_the_policy_drops_follows_the_endpoints(node: Node, family: Family) -> None:
    """A service drops from the moment its last local endpoint leaves until one is back."""
    data = to(DROPS, TCP)(family)
    for local, expected in ((1, TC_NEXT), (0, TC_DROP), (2, TC_NEXT)):
        node.apply(dropping(family, DROPS, local=local))
        assert verdict(node, family, "guard", data) == expected
    node.apply(dropping(family, DROPS))
    assert verdict(node, family, "guard", data) == TC_DROP
    node.remove(dropping(family, DROPS))
    assert verdict(node, family, "guard", data) == TC_NEXT


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=lambda protocol: protocol.name)
def test_truncated_packets_pass(services: Node, family: Family, protocol: Protocol) -> None:
    """A packet cut off anywhere before what must be read passes; from there on it is dropped."""
    whole = to(DROPS, protocol)(family)
    # the flags are byte 13 of a TCP header, the destination port bytes 2 and 3 of both
    needed = IP_BYTES[family] + (14 if protocol is TCP else 4)
    lengths = range(IP_BYTES[family], len(whole) + 1)
    verdicts = {n: verdict(services, family, "guard", whole[:n]) for n in lengths}
    assert verdicts == {n: TC_DROP if n >= needed else TC_NEXT for n in lengths}


def ipv4_syn(**changed: object) -> bytes:
    """Return a SYN to the service that drops, in a frame, with parts of its IP header changed."""
    address = service_address(Family.IPV4, DROPS)
    return ether(p.ipv4(p.tcp(SYN), address, TCP, **changed), ETH_P[Family.IPV4])  # type: ignore[arg-type] # handed on


def ipv6_syn(following: int, payload: bytes) -> bytes:
    """Return a packet to the service that drops, in a frame, with something after its header."""
    address = service_address(Family.IPV6, DROPS)
    return ether(p.ipv6(payload, address, following), ETH_P[Family.IPV6])


def syn(family: Family) -> bytes:
    """Return a SYN to the service that drops."""
    return to(DROPS, TCP)(family)


FRAMES: dict[str, tuple[tuple[Family, ...], int, Build]] = {
    "options": (V4, TC_DROP, lambda _: ipv4_syn(options=b"\x01" * 8)),
    "all-the-options": (V4, TC_DROP, lambda _: ipv4_syn(options=b"\x01" * 40)),
    "options-cut-off": (V4, TC_NEXT, lambda _: ipv4_syn(options=b"\x01" * 40)[:60]),
    "header-too-short": (V4, TC_NEXT, lambda _: ipv4_syn(header_words=4)),
    "no-header-length": (V4, TC_NEXT, lambda _: ipv4_syn(header_words=0)),
    "do-not-fragment": (V4, TC_DROP, lambda _: ipv4_syn(fragment=0x4000)),
    "first-fragment": (V4, TC_DROP, lambda _: ipv4_syn(fragment=0x2000)),
    "second-fragment": (V4, TC_NEXT, lambda _: ipv4_syn(fragment=0x2000 | 3)),
    "late-fragment": (V4, TC_NEXT, lambda _: ipv4_syn(fragment=0x1F00)),
    "last-fragment": (V4, TC_NEXT, lambda _: ipv4_syn(fragment=1)),
    "wrong-version": (V4, TC_NEXT, lambda _: ipv4_syn(version=6)),
    "version-0": (V4, TC_NEXT, lambda _: ipv4_syn(version=0)),
    "v6-wrong-version": (V6, TC_NEXT, lambda f: ether(
        packet(f, p.tcp(SYN), TCP, DROPS, version=4), ETH_P[f])),
    "hop-by-hop": (V6, TC_NEXT, lambda _: ipv6_syn(p.HOP_BY_HOP, p.extension(p.tcp(SYN), TCP))),
    "fragment-header": (V6, TC_NEXT, lambda _: ipv6_syn(p.FRAGMENT, p.extension(p.tcp(SYN), TCP))),
    "tagged": (BOTH, TC_NEXT, lambda f: p.vlan(syn(f), ETH_P[f])),
    "arp": (BOTH, TC_NEXT, lambda _: ether(p.arp(), p.ETH_P_ARP)),
    "ip-called-arp": (BOTH, TC_NEXT, lambda f: ether(syn(f), p.ETH_P_ARP)),
    "ipv4-called-ipv6": (V4, TC_NEXT, lambda f: ether(syn(f), ETH_P[Family.IPV6])),
    "ipv6-called-ipv4": (V6, TC_NEXT, lambda f: ether(syn(f), ETH_P[Family.IPV4])),
    "mpls": (BOTH, TC_NEXT, lambda f: ether(syn(f), 0x8847)),
    "length-field-as-type": (BOTH, TC_NEXT, lambda f: ether(syn(f), 60)),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_all_kinds(services: Node, family: Family, name: str) -> None:
    """Options are skipped; what has no transport header of its own, or is no IP, passes.

    Both families' guards see every frame, as both are on every device.
    """
    families, expected, build = FRAMES[name]
    wanted = expected if family in families else TC_NEXT
    made_for = family if family in families else families[0]
    assert run(services.loaded[family].programs / "guard", build(made_for)) == wanted

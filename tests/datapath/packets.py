# SPDX-License-Identifier: Apache-2.0
"""Packets, built from the outside in: `ether(ipv4(tcp(SYN)))` reads like the packet.

Checksums are 0: what the tests run looks at no checksum.
"""

from __future__ import annotations

import struct

from pyproxy.model import Family, Protocol
from tests.datapath.flavours import SERVICE_PORT, service_address

ETH_P = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}  # include/uapi/linux/if_ether.h
ETH_P_ARP, ETH_P_8021Q = 0x0806, 0x8100
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16  # RFC 9293 3.1
ECE, CWR = 64, 128  # RFC 3168 6.1
HOP_BY_HOP, FRAGMENT, ICMP, ICMPV6, SCTP = 0, 44, 1, 58, 132

# a source address whose bytes look like an Ethernet header's type, where BPF_PROG_TEST_RUN
# looks for one (see prog_run.py): 8.0.0.9, and fd00:0:86dd::9
SOURCES = {
    Family.IPV4: bytes((8, 0, 0, 9)),
    Family.IPV6: bytes.fromhex("fd00000086dd00000000000000000009"),
}


def ether(payload: bytes, kind: int) -> bytes:
    """Return a frame; `kind` is its EtherType."""
    return bytes.fromhex("02000000000102000000 0002") + struct.pack("!H", kind) + payload


def vlan(payload: bytes, kind: int, number: int = 7) -> bytes:
    """Return a frame with a VLAN tag (IEEE 802.1Q)."""
    return ether(struct.pack("!HH", number, kind) + payload, ETH_P_8021Q)


def arp() -> bytes:
    """Return a request for an address (RFC 826)."""
    return struct.pack("!HHBBH20x", 1, ETH_P[Family.IPV4], 6, 4, 1)


def ipv4(
    payload: bytes,
    dst: bytes,
    proto: int,
    *,
    version: int = 4,
    options: bytes = b"",
    fragment: int = 0,
    header_words: int | None = None,
) -> bytes:
    """Return an IPv4 packet (RFC 791); `fragment` is the word of flags and offset."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    length = 20 + len(options) + len(payload)
    head = struct.pack("!BBHHHBBH", version << 4 | words, 0, length, 1, fragment, 64, proto, 0)
    return head + SOURCES[Family.IPV4] + dst + options + payload


def ipv6(payload: bytes, dst: bytes, proto: int, *, version: int = 6) -> bytes:
    """Return an IPv6 packet (RFC 8200); `proto` is its next header."""
    head = struct.pack("!IHBB", version << 28, len(payload), proto, 64)
    return head + SOURCES[Family.IPV6] + dst + payload


def extension(payload: bytes, following: int) -> bytes:
    """Return an IPv6 extension header of eight bytes of zeros before a payload."""
    return bytes((following, 0, *bytes(6))) + payload


def packet(family: Family, payload: bytes, proto: int, number: int = 1, **changed: int) -> bytes:
    """Return a packet to the service with this number."""
    build = ipv4 if family is Family.IPV4 else ipv6
    return build(payload, service_address(family, number), proto, **changed)


def tcp(flags: int, port: int = SERVICE_PORT, source: int = 40000) -> bytes:
    """Return a TCP header (RFC 9293)."""
    return struct.pack("!HHIIBBHHH", source, port, 1, 0, 5 << 4, flags, 65535, 0, 0)


def udp(port: int = SERVICE_PORT, source: int = 40000, payload: bytes = b"?") -> bytes:
    """Return a UDP datagram (RFC 768)."""
    return struct.pack("!HHHH", source, port, 8 + len(payload), 0) + payload


def first_of(protocol: Protocol, port: int = SERVICE_PORT) -> bytes:
    """Return what begins a connection: a SYN, or a datagram."""
    return tcp(SYN, port) if protocol is Protocol.TCP else udp(port)

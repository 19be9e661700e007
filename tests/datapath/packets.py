# SPDX-License-Identifier: Apache-2.0
"""Packets with every checksum right: `tcp(client, frontend, SYN)` is a whole IP packet.

The family is that of the addresses. What a program has to make of a packet is another packet
from the same builders, so that a comparison of bytes checks every field and every checksum.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from pyproxy.model import Family, Protocol, family_of

ETH_P = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}  # include/uapi/linux/if_ether.h
ETH_P_ARP, ETH_P_8021Q = 0x0806, 0x8100
ETHERNET_BYTES = 14
IP_BYTES = {Family.IPV4: 20, Family.IPV6: 40}
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16  # RFC 9293 3.1
ECE, CWR = 64, 128  # RFC 3168 6.1
HOP_BY_HOP, FRAGMENT, ICMP, ICMPV6, SCTP = 0, 44, 1, 58, 132
ICMP_OF = {Family.IPV4: ICMP, Family.IPV6: ICMPV6}
DO_NOT_FRAGMENT = 0x4000

# the node's own hardware address: BPF_PROG_TEST_RUN's device is loopback, which has zeros
HOST_MAC = bytes(6)
PEER_MAC = bytes.fromhex("020000000002")

TEXT = b"some payload of a packet"


class Chunk(enum.IntEnum):
    """What an SCTP packet says first (RFC 9260 3.2)."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14


class End(NamedTuple):
    """An address and a port: one end of a connection."""

    address: bytes
    port: int


class Head(NamedTuple):
    """What an IP header says besides addresses and lengths; names as in IPv4.

    `fragment` is the word of flags and offset; `version` and `words` (the header's length) are
    for packets that lie.
    """

    ttl: int = 57
    tos: int = 0x28
    number: int = 0x1234
    fragment: int = DO_NOT_FRAGMENT
    options: bytes = b""
    version: int | None = None
    words: int | None = None


PLAIN = Head()


def words_sum(data: bytes) -> int:
    """Return the ones' complement sum of a text's 16-bit words (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    """Return the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1)."""
    if family_of(src) is Family.IPV4:
        return src + dst + struct.pack("!BBH", 0, proto, length)
    return src + dst + struct.pack("!II", length, proto)


def _with_checksum(data: bytes, at: int, before: bytes = b"") -> bytes:
    """Return data whose checksum at offset `at` (zeros so far) covers `before` as well."""
    check = ~words_sum(before + data) & 0xFFFF
    return data[:at] + struct.pack("!H", check) + data[at + 2 :]


def ip(src: bytes, dst: bytes, proto: int, payload: bytes, head: Head = PLAIN) -> bytes:
    """Return an IP packet (RFC 791, RFC 8200); IPv6's has no options, number and fragment."""
    if family_of(src) is Family.IPV6:
        first = (head.version or 6) << 28 | head.tos << 20 | head.number
        return struct.pack("!IHBB", first, len(payload), proto, head.ttl) + src + dst + payload
    words = 5 + len(head.options) // 4 if head.words is None else head.words
    length = 20 + len(head.options) + len(payload)
    version = 4 if head.version is None else head.version
    fields = (version << 4 | words, head.tos, length, head.number, head.fragment)
    raw = struct.pack("!BBHHHBBH", *fields, head.ttl, proto, 0) + src + dst + head.options
    return _with_checksum(raw, 10) + payload


def tcp(
    src: End,
    dst: End,
    flags: int,
    payload: bytes = b"",
    *,
    seq: int = 0x11223344,
    ack: int = 0x55667788,
    window: int = 64240,
    options: bytes = b"",
    head: Head = PLAIN,
) -> bytes:
    """Return a TCP segment (RFC 9293)."""
    words = 5 + len(options) // 4
    fields = (src.port, dst.port, seq, ack, words << 4, flags, window, 0, 0)
    raw = struct.pack("!HHIIBBHHH", *fields) + options + payload
    before = pseudo(src.address, dst.address, Protocol.TCP, len(raw))
    whole = _with_checksum(raw, 16, before)
    return ip(src.address, dst.address, Protocol.TCP, whole, head)


def udp(
    src: End, dst: End, payload: bytes = TEXT, *, checksum: bool = True, head: Head = PLAIN
) -> bytes:
    """Return a UDP datagram (RFC 768); without checksum its field is 0."""
    raw = struct.pack("!HHHH", src.port, dst.port, 8 + len(payload), 0) + payload
    if checksum:
        before = pseudo(src.address, dst.address, Protocol.UDP, len(raw))
        raw = _with_checksum(raw, 6, before)
        if not any(raw[6:8]):
            raw = raw[:6] + b"\xff\xff" + raw[8:]
    return ip(src.address, dst.address, Protocol.UDP, raw, head)


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp(
    src: End, dst: End, chunk: int, body: bytes = TEXT, *, tag: int = 7, head: Head = PLAIN
) -> bytes:
    """Return an SCTP packet of one chunk (RFC 9260 3)."""
    start = struct.pack("!HHI", src.port, dst.port, tag)
    rest = struct.pack("!BBH", chunk, 0, 4 + len(body)) + body + bytes(-len(body) % 4)
    check = crc32c(start + bytes(4) + rest)
    raw = start + struct.pack("<I", check) + rest
    return ip(src.address, dst.address, Protocol.SCTP, raw, head)


def icmp(src: bytes, dst: bytes, kind: int, code: int, body: bytes, *, head: Head = PLAIN) -> bytes:
    """Return an ICMP or ICMPv6 message (RFC 792, RFC 4443); `body` is all after the checksum."""
    family = family_of(src)
    raw = struct.pack("!BBH", kind, code, 0) + body
    before = pseudo(src, dst, ICMPV6, len(raw)) if family is Family.IPV6 else b""
    return ip(src, dst, ICMP_OF[family], _with_checksum(raw, 2, before), head)


def extension(payload: bytes, following: int) -> bytes:
    """Return an IPv6 extension header of eight bytes of zeros before a payload."""
    return bytes((following, 0, *bytes(6))) + payload


def ether(payload: bytes, kind: int, dst: bytes = HOST_MAC, src: bytes = PEER_MAC) -> bytes:
    """Return a frame; `kind` is its EtherType."""
    return dst + src + struct.pack("!H", kind) + payload


def vlan(payload: bytes, kind: int, number: int = 7) -> bytes:
    """Return a frame with a VLAN tag (IEEE 802.1Q)."""
    return ether(struct.pack("!HH", number, kind) + payload, ETH_P_8021Q)


def arp() -> bytes:
    """Return a request for an address (RFC 826)."""
    return struct.pack("!HHBBH20x", 1, ETH_P[Family.IPV4], 6, 4, 1)

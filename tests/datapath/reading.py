# SPDX-License-Identifier: Apache-2.0
"""A second reading of packets, written from the RFCs alone, for programs to be compared with."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyproxy.model import Family
from tests.datapath.packets import ICMP_OF, End, words_sum
from tests.datapath.pieces import ends_of

TCP, UDP, SCTP, PORTS_BYTES = 6, 17, 132, 4
# how long a transport's header is, and where its checksum stands
HEADERS = {TCP: (20, 16), UDP: (8, 6)}
SERVED = (TCP, UDP, SCTP)
TCP_FLAGS, BEGINS, LEADING = 13, 0x02, 0x17  # SYN, of SYN, ACK, RST and FIN
ROUTING, FRAGMENT = 43, 44
EXTENSIONS = (0, ROUTING, FRAGMENT, 60)
MOST_EXTENSIONS, FARTHEST = 6, 0x1FF
ETHERNET_BYTES = 14
# types of errors: unreachable, source quench, time exceeded, parameter problem; all below
ICMP_BYTES, ERRORS4, ERRORS6 = 8, (3, 4, 11, 12), 128


class Segment(NamedTuple):
    """Where a header of UDP or TCP is in a packet, its ends, and whether it may begin something."""

    proto: int
    transport: int
    src: End
    dst: End
    begins: bool


class Reading(NamedTuple):
    """What a packet is: a fragment without ports of something, or a segment, or neither."""

    has_no_ports: bool = False
    segment: Segment | None = None


NOTHING = Reading()


class _Headers(NamedTuple):
    """What stands before a packet's payload: whose it is, and which part of a packet that is."""

    proto: int
    at: int
    is_first: bool = False
    is_later: bool = False


def _headers(packet: bytes) -> _Headers | None:
    """Return where a packet's payload is, None if it cannot be found."""
    return _headers6(packet) if packet[:1] and packet[0] >> 4 == 6 else _headers4(packet)


def _headers4(packet: bytes) -> _Headers | None:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5:
        return None
    (word,) = struct.unpack_from("!H", packet, 6)
    at, is_later = (packet[0] & 15) * 4, bool(word & 0x1FFF)
    return _Headers(packet[9], at, bool(word & 0x2000) and not is_later, is_later)


def _headers6(packet: bytes) -> _Headers | None:
    if len(packet) < 40:
        return None
    proto, at, is_first = packet[6], 40, False
    for _ in range(MOST_EXTENSIONS):
        if proto not in EXTENSIONS:
            break
        if len(packet) < at + 8 or (proto == ROUTING and packet[at + 3]):
            return None
        following, length = packet[at], 8
        if proto == FRAGMENT:
            (word,) = struct.unpack_from("!H", packet, at + 2)
            if word & 0xFFF8:
                return _Headers(following, at + 8, is_later=True)
            is_first = is_first or bool(word & 1)
        else:
            length += packet[at + 1] * 8
        proto, at = following, at + length
    return None if proto in EXTENSIONS else _Headers(proto, at, is_first)


def read(family: Family, packet: bytes) -> Reading:
    """Read an IP packet as a router of services does that takes no lengths for granted."""
    found = _headers(packet)
    if found is None or packet[0] >> 4 != family.value:
        return NOTHING
    if found.is_later:
        return Reading(has_no_ports=True)
    return _whole(packet, found.proto, found.at, is_first=found.is_first)


def _whole(packet: bytes, proto: int, at: int, *, is_first: bool) -> Reading:
    """Read a packet or first fragment whose transport header is where it says."""
    if at + ETHERNET_BYTES > FARTHEST:
        return NOTHING
    if is_first and proto in SERVED and len(packet) < at + PORTS_BYTES:
        return Reading(has_no_ports=True)
    if proto not in HEADERS or len(packet) < at + HEADERS[proto][0]:
        return NOTHING
    return Reading(segment=_segment(packet, proto, at))


def _segment(packet: bytes, proto: int, at: int) -> Segment:
    src, dst = ends_of(packet)
    ports = struct.unpack_from("!HH", packet, at)
    flags = packet[at + TCP_FLAGS] if len(packet) > at + TCP_FLAGS else 0
    begins = proto == UDP or flags & LEADING == BEGINS
    return Segment(proto, at, End(src, ports[0]), End(dst, ports[1]), begins)


class Quote(NamedTuple):
    """Where an ICMP error's header is in a packet, where what it quotes, and what that is."""

    message: int
    at: int
    about: Segment


def quoted(family: Family, packet: bytes) -> Quote | None:
    """Read an ICMP error (RFC 792, RFC 4443) about a segment or the first part of one.

    The first fragment of an error has all of that, too.
    """
    outer = _headers(packet)
    if outer is None or packet[0] >> 4 != family.value or outer.is_later:
        return None
    at = outer.at + ICMP_BYTES
    if outer.proto != ICMP_OF[family] or len(packet) < at or outer.at + ETHERNET_BYTES > FARTHEST:
        return None
    kind, about = packet[outer.at], packet[at:]
    inner = _headers(about)
    is_error = kind in ERRORS4 if family is Family.IPV4 else kind < ERRORS6
    if inner is None or not is_error or about[0] >> 4 != family.value or inner.is_later:
        return None
    if inner.proto not in HEADERS or len(about) < inner.at + PORTS_BYTES:
        return None
    return Quote(outer.at, at, _segment(about, inner.proto, inner.at))


def translated(family: Family, packet: bytes, segment: Segment, src: End, dst: End) -> bytes:
    """Return a segment's packet with other ends, every checksum as right as it was."""
    at, size = segment.transport, family.address_bytes
    check = at + HEADERS[segment.proto][1]
    changed = bytearray(packet)
    first = 12 if family is Family.IPV4 else 8
    changed[first : first + 2 * size] = src.address + dst.address
    changed[at : at + 4] = struct.pack("!HH", src.port, dst.port)
    before, after = packet[first : first + 2 * size], src.address + dst.address
    if family is Family.IPV4:
        _adjust(changed, 10, before, after)
    if segment.proto == UDP and packet[check : check + 2] == b"\x00\x00":
        return bytes(changed)
    _adjust(changed, check, before + packet[at : at + 4], after + changed[at : at + 4])
    if segment.proto == UDP and changed[check : check + 2] == b"\x00\x00":
        changed[check : check + 2] = b"\xff\xff"
    return bytes(changed)


def _adjust(packet: bytearray, at: int, before: bytes, after: bytes) -> None:
    """Change a checksum by what it covers (RFC 1624 3)."""
    (check,) = struct.unpack_from("!H", packet, at)
    total = (~check & 0xFFFF) + (~words_sum(before) & 0xFFFF) + words_sum(after)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, at, ~total & 0xFFFF)

# SPDX-License-Identifier: Apache-2.0
"""A second reading of packets, written from the RFCs alone, for programs to be compared with."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyproxy.model import Family
from tests.datapath.packets import End, words_sum
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


def read(family: Family, packet: bytes) -> Reading:
    """Read an IP packet as a router of services does that takes no lengths for granted."""
    return _read4(packet) if family is Family.IPV4 else _read6(packet)


def _read4(packet: bytes) -> Reading:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5:
        return NOTHING
    (word,) = struct.unpack_from("!H", packet, 6)
    if word & 0x1FFF:
        return Reading(has_no_ports=True)
    return _whole(packet, packet[9], (packet[0] & 15) * 4, is_first=bool(word & 0x2000))


def _read6(packet: bytes) -> Reading:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return NOTHING
    proto, at, is_first = packet[6], 40, False
    for _ in range(MOST_EXTENSIONS):
        if proto not in EXTENSIONS:
            break
        if len(packet) < at + 8 or (proto == ROUTING and packet[at + 3]):
            return NOTHING
        following, length = packet[at], 8
        if proto == FRAGMENT:
            (word,) = struct.unpack_from("!H", packet, at + 2)
            if word & 0xFFF8:
                return Reading(has_no_ports=True)
            is_first = is_first or bool(word & 1)
        else:
            length += packet[at + 1] * 8
        proto, at = following, at + length
    return NOTHING if proto in EXTENSIONS else _whole(packet, proto, at, is_first=is_first)


def _whole(packet: bytes, proto: int, at: int, *, is_first: bool) -> Reading:
    """Read a packet or first fragment whose transport header is where it says."""
    if at + ETHERNET_BYTES > FARTHEST:
        return NOTHING
    if is_first and proto in SERVED and len(packet) < at + PORTS_BYTES:
        return Reading(has_no_ports=True)
    if proto not in HEADERS or len(packet) < at + HEADERS[proto][0]:
        return NOTHING
    src, dst = ends_of(packet)
    ports = struct.unpack_from("!HH", packet, at)
    begins = proto == UDP or packet[at + TCP_FLAGS] & LEADING == BEGINS
    return Reading(segment=Segment(proto, at, End(src, ports[0]), End(dst, ports[1]), begins))


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

# SPDX-License-Identifier: Apache-2.0
"""A second reading of packets, written from the RFCs alone, for programs to be compared with."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyproxy.model import Family
from tests.datapath.packets import End, words_sum
from tests.datapath.pieces import ends_of

UDP, UDP_CHECK, UDP_BYTES, PORTS_BYTES = 17, 6, 8, 4
SERVED = (6, UDP, 132)
ROUTING, FRAGMENT = 43, 44
EXTENSIONS = (0, ROUTING, FRAGMENT, 60)
MOST_EXTENSIONS, FARTHEST = 6, 0x1FF
ETHERNET_BYTES = 14


class Datagram(NamedTuple):
    """Where a UDP datagram's transport header is in a packet, and its ends."""

    transport: int
    src: End
    dst: End


class Reading(NamedTuple):
    """What a packet is: a fragment without ports of something, or a datagram, or neither."""

    has_no_ports: bool = False
    datagram: Datagram | None = None


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
    if proto != UDP or len(packet) < at + UDP_BYTES:
        return NOTHING
    src, dst = ends_of(packet)
    ports = struct.unpack_from("!HH", packet, at)
    return Reading(datagram=Datagram(at, End(src, ports[0]), End(dst, ports[1])))


def translated(family: Family, packet: bytes, datagram: Datagram, dst: End) -> bytes:
    """Return a datagram's packet with another destination, every checksum as right as it was."""
    at = datagram.transport
    before = datagram.dst.address + struct.pack("!H", datagram.dst.port)
    after = dst.address + struct.pack("!H", dst.port)
    changed = bytearray(packet)
    where = 16 if family is Family.IPV4 else 24
    changed[where : where + len(dst.address)] = dst.address
    changed[at + 2 : at + 4] = after[-2:]
    if family is Family.IPV4:
        _adjust(changed, 10, datagram.dst.address, dst.address)
    if changed[at + UDP_CHECK : at + UDP_BYTES] != b"\x00\x00":
        _adjust(changed, at + UDP_CHECK, before, after)
        if changed[at + UDP_CHECK : at + UDP_BYTES] == b"\x00\x00":
            changed[at + UDP_CHECK : at + UDP_BYTES] = b"\xff\xff"
    return bytes(changed)


def _adjust(packet: bytearray, at: int, before: bytes, after: bytes) -> None:
    """Change a checksum by what it covers (RFC 1624 3)."""
    (check,) = struct.unpack_from("!H", packet, at)
    total = (~check & 0xFFFF) + (~words_sum(before) & 0xFFFF) + words_sum(after)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, at, ~total & 0xFFFF)

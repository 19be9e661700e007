# SPDX-License-Identifier: Apache-2.0
"""Packets cut into fragments, and IPv6 extension headers (RFC 791 3.2, RFC 8200 4)."""

from __future__ import annotations

import struct

from pyproxy.model import Family, family_of
from tests.datapath import packets as p
from tests.datapath.packets import IP_BYTES, PLAIN

ROUTING, DESTINATION = 43, 60
OFFSET, MORE = 0x1FFF, 0x2000


def header_of(packet: bytes) -> int:
    """Return the length of a packet's IP header."""
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else IP_BYTES[Family.IPV6]


def ends_of(packet: bytes) -> tuple[bytes, bytes]:
    """Return a packet's addresses."""
    at, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return packet[at : at + size], packet[at + size : at + 2 * size]


def proto_of(packet: bytes) -> int:
    """Return the number of what follows the IP header."""
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def piece(
    packet: bytes, start: int, end: int, number: int = 1, *, more: bool | None = None
) -> bytes:
    """Return the fragment that has bytes `start` to `end` of a packet's payload.

    `start` is a multiple of 8; `more` says that others follow, by itself what is true.
    """
    head, (src, dst), proto = header_of(packet), ends_of(packet), proto_of(packet)
    body = packet[head:]
    follows = end < len(body) if more is None else more
    part = body[start:end]
    if family_of(src) is Family.IPV4:
        word = start // 8 | (MORE if follows else 0)
        options = packet[IP_BYTES[Family.IPV4] : head]
        changed = PLAIN._replace(fragment=word, number=number, options=options)
        return p.ip(src, dst, proto, part, changed)
    extension = struct.pack("!BBHI", proto, 0, start | follows, number)
    return p.ip(src, dst, p.FRAGMENT, extension + part)


def cut(packet: bytes, size: int = 64, number: int = 1) -> list[bytes]:
    """Return all fragments of a packet, of `size` bytes each but the last."""
    length = len(packet) - header_of(packet)
    return [piece(packet, at, at + size, number) for at in range(0, length, size)]


def extended(packet: bytes, *headers: tuple[int, bytes]) -> bytes:
    """Return an IPv6 packet with extension headers: the number and all after "next" of each."""
    src, dst = ends_of(packet)
    body, following = packet[IP_BYTES[Family.IPV6] :], proto_of(packet)
    for number, rest in reversed(headers):
        body, following = bytes((following,)) + rest + body, number
    return p.ip(src, dst, following, body)


def options(units: int = 0) -> bytes:
    """Return a header of 8 bytes and as often 8 more: padding (RFC 8200 4.2)."""
    size = 6 + 8 * units
    padding = b""
    while len(padding) < size:
        part = min(size - len(padding), 257)
        padding += bytes((1, part - 2)) + bytes(part - 2) if part > 1 else b"\x00"
    return bytes((units,)) + padding


def routing(left: int) -> bytes:
    """Return a routing header with hops left (RFC 8200 4.4)."""
    return bytes((0, 253, left, *bytes(4)))


def fragment(offset: int, *, more: bool, number: int = 1) -> bytes:
    """Return a fragment header (RFC 8200 4.5); the offset in bytes."""
    return struct.pack("!BHI", 0, offset | more, number)

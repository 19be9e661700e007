# SPDX-License-Identifier: Apache-2.0
"""What passes a host's device, read from a packet socket (packet(7)) and taken apart."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from tests.lab import netns
from tests.lab.hosts import Host
from tests.lab.waiting import wait_for

ETH_P_ALL = 3
ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
RST, ACK = 4, 16


class Packet(NamedTuple):
    """An IP packet without options. `leaves`: the host has sent it; `data` begins with IP."""

    leaves: bool
    family: int
    protocol: int
    source: str
    destination: str
    data: bytes

    @property
    def payload(self) -> bytes:
        """What follows the IP header."""
        return self.data[20 if self.family == 4 else 40 :]

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port of TCP or UDP."""
        return struct.unpack_from("!HH", self.payload)

    @property
    def sequence(self) -> tuple[int, int]:
        """TCP's sequence and acknowledgement numbers."""
        return struct.unpack_from("!II", self.payload, 4)

    @property
    def flags(self) -> int:
        """TCP's flags."""
        return self.payload[13]

    @property
    def icmp(self) -> tuple[int, int]:
        """ICMP's or ICMPv6's type and code."""
        return self.payload[0], self.payload[1]


def parse(data: bytes, *, leaves: bool) -> Packet | None:
    """Return an IP packet, None for anything else."""
    if not data or data[0] >> 4 not in {4, 6}:
        return None
    family = data[0] >> 4
    kind, at = (socket.AF_INET, 12) if family == 4 else (socket.AF_INET6, 8)
    size = 4 if family == 4 else 16
    source, destination = (
        socket.inet_ntop(kind, data[offset : offset + size]) for offset in (at, at + size)
    )
    return Packet(leaves, family, data[9 if family == 4 else 6], source, destination, data)


class Capture:
    """Takes down what passes eth0 of a host; use it in a `with` statement."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.packets: list[Packet] = []

    def __enter__(self) -> Self:
        self._socket = netns.inside(self.host.netns, _listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def take(self) -> list[Packet]:
        """Return all packets so far."""
        while select.select([self._socket], [], [], 0)[0]:
            data, address = self._socket.recvfrom(65536)
            packet = parse(data, leaves=address[2] == socket.PACKET_OUTGOING)
            if packet:
                self.packets.append(packet)
        return self.packets

    def find(self, fits: Callable[[Packet], bool], what: str) -> Packet:
        """Wait for a packet and return it; raise TimeoutError, which names `what`."""
        wait_for(lambda: any(map(fits, self.take())), 2, what)
        return next(filter(fits, self.packets))


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    sock.bind(("eth0", ETH_P_ALL))
    return sock

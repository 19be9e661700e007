# SPDX-License-Identifier: Apache-2.0
"""Datagrams sent on one socket at the same moment."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence

from tests.datapath.asking import Told, parse
from tests.datapath.flavours import SockAddr, named


def send_at_once(socks: Sequence[socket.socket], to: Sequence[SockAddr]) -> None:
    """Send a datagram to each address at once, on one socket after the other.

    Each address has a process of its own: processes that share a socket are to the programs
    what threads are, without Python's lock between them. They spin until all have come to the
    next socket, as a wake-up takes ten times longer than a send; on two CPUs nothing else may
    run meanwhile.
    """
    rounds = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    children = [_fork(socks, address, rounds, i, len(to)) for i, address in enumerate(to)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise ChildProcessError(f"a sender failed: {statuses}")


def replies(sock: socket.socket, number: int) -> list[Told]:
    """Return the replies that a socket gets, and close it."""
    with sock:
        received = [sock.recvfrom(64) for _ in range(number)]
    return [Told(parse(raw), named(source)) for raw, source in received]


def _fork(
    socks: Sequence[socket.socket], to: SockAddr, rounds: memoryview, mine: int, number: int
) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            for current, sock in enumerate(socks, start=1):
                rounds[mine] = current
                for other in range(number):
                    while rounds[other] < current:
                        pass
                sock.sendto(b"?", to)
            status = 0
        finally:
            os._exit(status)
    return child

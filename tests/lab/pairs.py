# SPDX-License-Identifier: Apache-2.0
"""Two datagrams at once from one new socket, by two CPUs. Run as a script, standard library only.

    python3 -I -S pairs.py ADDRESS PORT COUNT

Does so with COUNT sockets, one after the other; prints how many answers have come, of twice COUNT.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import time

ANSWER_S = 1.0
PAUSE_S = 0.002


def meet(shared: memoryview, me: int, number: int) -> None:
    """Wait until the other process has come as far.

    It may be further already: who is called away here for a while finds the other at its next.
    """
    shared[me] = number
    while shared[1 - me] < number:
        pass


def send_all(
    sockets: list[socket.socket], to: tuple[str, int], shared: memoryview, me: int
) -> None:
    """Send by each socket when the other process does."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[me]})
    for number, sock in enumerate(sockets, 1):
        time.sleep(PAUSE_S)
        meet(shared, me, number)
        sock.sendto(b"?\n", to)


def answers(sock: socket.socket) -> int:
    """Return how many of a socket's two answers come."""
    sock.settimeout(ANSWER_S)
    for number in range(2):
        try:
            sock.recv(4096)
        except TimeoutError:
            return number
    return 2


def main() -> None:
    """Read the arguments and send."""
    to, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
    for sock in sockets:
        # binding at the first of two sends would put these one after the other
        sock.bind(("", 0))
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("I")
    child = os.fork()
    send_all(sockets, to, shared, 1 if child else 0)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print(sum(answers(sock) for sock in sockets))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Datagrams of any size, there and back. Run as a script, standard library only.

    python3 -I -S datagrams.py serve PORT
    python3 -I -S datagrams.py ask ADDRESS PORT SIZE[,SIZE..] [TRIES [SECONDS]]

The server gives each datagram back; it prints "ready" when it listens. The client sends one of
each size, up to TRIES times (default 1), until it comes back as it was, from where it went to, each
time for SECONDS (1); else it says what came instead and ends with status 1.
"""

from __future__ import annotations

import random
import socket
import sys

MOST = 65_536
ANSWER_S = 1.0
# a hundred clients may each have one of the largest here while the server does not run
BUFFER = 1 << 24
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python does not name it


def serve(port: int) -> None:
    """Give back what comes, for ever, in both families."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    server.bind(("::", port))
    print("ready", flush=True)
    while True:
        data, peer = server.recvfrom(MOST)
        server.sendto(data, peer)


def came_back(client: socket.socket, sent: bytes, to: tuple[str, int]) -> str:
    """Send a datagram; return "" if it came back, else what did instead."""
    try:
        client.sendto(sent, to)
        data, source = client.recvfrom(MOST)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    if source[:2] != to:
        return f"an answer from {source[0]} {source[1]}"
    return "" if data == sent else f"{len(data)} bytes, not the {len(sent)} that were sent"


def ask(to: tuple[str, int], sizes: list[int], tries: int, seconds: float) -> str:
    """Send one of each size; return "" if all came back, else what went wrong."""
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        for size in sizes:
            sent = random.Random(size).randbytes(size)
            said = [came_back(client, sent, to)]
            while said[-1] and len(said) < tries:
                said.append(came_back(client, sent, to))
            if said[-1]:
                return f"{size} bytes: {'; '.join(said)}"
    return ""


def main() -> None:
    """Read the arguments, serve or ask."""
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    sizes = [int(size) for size in sys.argv[4].split(",")]
    tries = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    seconds = float(sys.argv[6]) if len(sys.argv) > 6 else ANSWER_S
    failed = ask((sys.argv[2], int(sys.argv[3])), sizes, tries, seconds)
    if failed:
        raise SystemExit(failed)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Kept connections and sockets with data all the time. Run as a module in a host.

    python3 -S -m tests.soak.holding '[{"path": "..", "bulk": ["10.0.0.1", 81], "dns": [..]}, ..]'

For each entry one TCP connection to what gives back its bytes (lab/echo.py), and one UDP socket to
what gives back its datagrams (lab/datagrams.py), each in a thread of its own, until stdin ends.
What is sent next waits for what was sent before. A connection that fails is not made anew.

Once a second, and at the end, it prints one line of JSON: an object by path of {bytes, datagrams,
lost, failures}. `bytes` have come back, and up to there the SHA-256 of what was sent is that of
what came; `lost` counts datagrams that did not come back as they were, in ANSWER_S; `failures` are
sentences.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from tests.lab.datagrams import came_back
from tests.soak.asking import REPORT_S, until_stdin_ends

CHUNK = 1 << 15
CHUNKS_A_SECOND = 10
# the last two are larger than any device's MTU
SIZES = (64, 4_000, 20_000)
ROUNDS_A_SECOND = 5
ANSWER_S = 3.0
SAID = 20  # so many failures of a path are told, and all are counted

Ending = threading.Event


class Held:
    """What a path's connection and socket have done; each number has one thread that writes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.bytes = 0
        self.datagrams = 0
        self.lost = 0
        self.failures: list[str] = []

    def keep_talking(self, to: tuple[str, int], stopping: Ending) -> None:
        """Send bytes on one connection and compare what comes back."""
        sent, back = hashlib.sha256(), hashlib.sha256()
        try:
            with socket.create_connection(to, ANSWER_S) as connection:
                while not stopping.wait(1 / CHUNKS_A_SECOND):
                    data = os.urandom(CHUNK)
                    sent.update(data)
                    connection.sendall(data)
                    back.update(_exactly(connection, CHUNK))
                    if sent.digest() != back.digest():
                        self.failures.append(f"other bytes came back after {self.bytes}")
                        return
                    self.bytes += CHUNK
        except OSError as error:
            self._fail(f"after {self.bytes} bytes: {type(error).__name__}: {error}")

    def keep_sending(self, to: tuple[str, int], stopping: Ending) -> None:
        """Send datagrams of all sizes by one socket and compare what comes back."""
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(ANSWER_S)
            while not stopping.wait(1 / ROUNDS_A_SECOND):
                for size in SIZES:
                    said = came_back(client, os.urandom(size), to)
                    self.datagrams += 1
                    if said:
                        self.lost += 1
                        self._fail(f"datagram {self.datagrams} of {size} bytes: {said}")

    def _fail(self, text: str) -> None:
        if len(self.failures) < SAID:
            self.failures.append(text)


def _exactly(connection: socket.socket, count: int) -> bytes:
    """Receive so many bytes; raises OSError where they do not come."""
    parts: list[bytes] = []
    while count:
        part = connection.recv(count)
        if not part:
            raise ConnectionError("the server has closed it")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def started(entry: dict[str, Any], stopping: Ending) -> tuple[Held, list[threading.Thread]]:
    """Start the threads of a path."""
    held = Held(entry["path"])
    work: list[tuple[Callable[[tuple[str, int], Ending], None], str]] = [
        (held.keep_talking, "bulk"),
        (held.keep_sending, "dns"),
    ]
    threads = []
    for target, key in work:
        address, port = entry[key]
        threads.append(threading.Thread(target=target, args=((address, port), stopping)))
        threads[-1].start()
    return held, threads


def main() -> None:
    """Start all threads, then report until they have ended."""
    stopping = until_stdin_ends()
    running = [started(entry, stopping) for entry in json.loads(sys.argv[1])]
    while not stopping.wait(REPORT_S):
        report([held for held, _ in running])
    for _, threads in running:
        for thread in threads:
            thread.join()
    report([held for held, _ in running])


def report(all_held: list[Held]) -> None:
    """Print a line."""
    said = {
        held.path: {key: value for key, value in vars(held).items() if key != "path"}
        for held in all_held
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A proxy that tunnels to whatever it is asked for by CONNECT (RFC 9110 9.3.6)."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import NamedTuple


class Asked(NamedTuple):
    """A request for a tunnel: where to, and with which Proxy-Authorization ("": none)."""

    target: str
    authorization: str


class Proxy(socketserver.ThreadingTCPServer):
    """Tunnels for everybody, or only for who shows `authorization`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, authorization: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.authorization = authorization
        self.asked: list[Asked] = []

    @property
    def port(self) -> int:
        """The port that it listens on, at 127.0.0.1."""
        return int(self.server_address[1])


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        asked = self._read()
        self.server.asked.append(asked)
        if self.server.authorization not in ("", asked.authorization):
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        host, _, port = asked.target.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            _join(self.connection, far)

    def _read(self) -> Asked:
        target = self.rfile.readline().split()[1].decode()
        authorization = ""
        while line := self.rfile.readline().strip().decode():
            name, _, value = line.partition(":")
            if name.lower() == "proxy-authorization":
                authorization = value.strip()
        return Asked(target, authorization)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side ends."""
    ends = {one: other, other: one}
    while True:
        for ready in select.select(list(ends), [], [])[0]:
            if not (some := ready.recv(65536)):
                return
            ends[ready].sendall(some)


@contextlib.contextmanager
def tunnelling(authorization: str = "") -> Iterator[Proxy]:
    """Run a proxy; it is gone afterwards."""
    with Proxy(authorization) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()

# SPDX-License-Identifier: Apache-2.0
"""The backends: one process that listens on all of their addresses and says which it was."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

from pyproxy.model import Protocol
from tests.datapath.children import Board
from tests.datapath.flavours import BACKENDS, KINDS, OTHER_PORT, PORT, Flavour

Handler = Callable[[], None]
BACKLOG = 512


def answer(board: Board) -> None:
    """Answer every TCP connection and every datagram with "<backend> <port>", for good.

    The board's progress becomes 1 when all sockets listen.
    """
    watched = selectors.DefaultSelector()
    for flavour in (Flavour.IPV4, Flavour.IPV6):
        for number in BACKENDS:
            for port in (PORT, OTHER_PORT):
                _listen(watched, flavour, number, port)
    board.progress = 1
    while True:
        for key, _ in watched.select():
            key.data()


def _listen(watched: selectors.BaseSelector, flavour: Flavour, number: int, port: int) -> None:
    said = f"{number} {port}".encode()
    for protocol, kind in KINDS.items():
        sock = socket.socket(flavour.domain, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(flavour.backend(number, port))
        sock.setblocking(False)
        if protocol is Protocol.TCP:
            sock.listen(BACKLOG)
            handler = _acceptor(watched, sock, said)
        else:
            handler = _echo(sock, said)
        watched.register(sock, selectors.EVENT_READ, handler)


def _acceptor(watched: selectors.BaseSelector, sock: socket.socket, said: bytes) -> Handler:
    def accept() -> None:
        with suppress(OSError):
            connection, _ = sock.accept()
            connection.send(said)
            watched.register(connection, selectors.EVENT_READ, _closer(watched, connection))

    return accept


def _closer(watched: selectors.BaseSelector, connection: socket.socket) -> Handler:
    def read() -> None:
        with suppress(OSError):
            if connection.recv(4096):
                return
        watched.unregister(connection)
        connection.close()

    return read


def _echo(sock: socket.socket, said: bytes) -> Handler:
    def reply() -> None:
        with suppress(OSError):
            _, source = sock.recvfrom(4096)
            sock.sendto(said, source)

    return reply

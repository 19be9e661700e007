# SPDX-License-Identifier: Apache-2.0
"""The clients: which backend answers, and what a socket shows of it."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from pyproxy.model import Protocol
from tests.datapath.flavours import KINDS, Flavour, SockAddr, named

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
TIMEOUT_S = 20.0
AF_UNSPEC = struct.pack("=H14x", 0)

MakeSocket = Callable[[int, int, int], socket.socket]


class Answer(NamedTuple):
    """Who answered: a backend's number and port."""

    backend: int
    port: int


class Told(NamedTuple):
    """An answer and the address that recvfrom() gave for it."""

    answer: Answer
    source: SockAddr


def parse(raw: bytes) -> Answer:
    """Return what a backend said of itself."""
    number, port = raw.split()
    return Answer(int(number), int(port))


def open_socket(
    flavour: Flavour, protocol: Protocol, make: MakeSocket = socket.socket, number: int = 0
) -> socket.socket:
    """Return a socket for a protocol; `number` is its IANA number where it isn't the default.

    A TCP socket resets when it is closed: thousands of draws must not use up the ports.
    """
    sock = make(flavour.domain, KINDS[protocol], number)
    sock.settimeout(TIMEOUT_S)
    if protocol is Protocol.TCP:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return sock


def ask_connected(sock: socket.socket) -> Told:
    """Return who answers on a connected socket."""
    if sock.type == socket.SOCK_DGRAM:
        sock.send(b"?")
        raw, source = sock.recvfrom(64)
        return Told(parse(raw), named(source))
    return Told(parse(sock.recv(64)), named(sock.getpeername()))


def ask(sock: socket.socket, to: SockAddr) -> Told:
    """Send a datagram and return who answers it, from which address."""
    sock.sendto(b"?", to)
    raw, source = sock.recvfrom(64)
    return Told(parse(raw), named(source))


def draw(
    flavour: Flavour, protocol: Protocol, to: SockAddr, make: MakeSocket = socket.socket
) -> Answer:
    """Return who answers a new socket; raises OSError as connect() or sendto() do."""
    with open_socket(flavour, protocol, make) as sock:
        if protocol is Protocol.UDP:
            return ask(sock, to).answer
        sock.connect(to)
        return ask_connected(sock).answer


def errno_of(call: Callable[[], object]) -> str:
    """Return the name of the error that a call fails with, "" if it does not fail."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return ""


def disconnect(sock: socket.socket) -> None:
    """Dissolve a socket's association: connect() to AF_UNSPEC, which Python has no word for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), AF_UNSPEC, len(AF_UNSPEC)):
        raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")

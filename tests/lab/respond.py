# SPDX-License-Identifier: Apache-2.0
"""A pod's server: says who answered and whom it saw. Run as a script, standard library only.

    python3 -I -S respond.py NAME PORT[,PORT..] [ADDRESS[,ADDRESS..]]

For every line (TCP) or datagram (UDP) that comes in it answers `NAME PEER-ADDRESS PEER-PORT`.
TCP connections stay open until the client closes them; thousands may be open at once. Prints
"ready" when every port listens.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
from collections.abc import Callable
from functools import partial

WILDCARDS = "0.0.0.0,::"
IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it
TELL_DESTINATION = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO, 1),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),
}
Control = list[tuple[int, int, bytes]]


def same_address(control: Control) -> Control:
    """Turn what recvmsg says of a datagram's destination into sendmsg's source, any device.

    struct in_pktinfo begins with the interface's index, struct in6_pktinfo ends with it.
    """
    level, kind, value = control[0]
    anywhere = bytes(4)
    is_ipv4 = level == socket.IPPROTO_IP
    return [(level, kind, anywhere + value[4:] if is_ipv4 else value[:16] + anywhere)]


def listen(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """Return a bound socket of one family only, listening where it is TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM:
        server.setsockopt(*TELL_DESTINATION[family])
    server.bind((address, port))
    server.setblocking(False)
    if kind == socket.SOCK_STREAM:
        server.listen(4096)
    return server


class Responder:
    """One event loop for all ports of a pod."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.selector = selectors.DefaultSelector()

    def serve(self, ports: list[int], addresses: list[str]) -> None:
        """Open all sockets, say so, and answer for ever."""
        for address in addresses:
            for port in ports:
                self._watch(listen(socket.SOCK_STREAM, address, port), self._accept)
                self._watch(listen(socket.SOCK_DGRAM, address, port), self._datagrams)
        print("ready", flush=True)
        while True:
            for key, _ in self.selector.select():
                key.data()

    def _watch(self, sock: socket.socket, react: Callable[[socket.socket], None]) -> None:
        self.selector.register(sock, selectors.EVENT_READ, partial(react, sock))

    def _answer(self, peer: tuple[str, int]) -> bytes:
        return f"{self.name} {peer[0]} {peer[1]}\n".encode()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, peer = server.accept()
            except BlockingIOError:
                return
            except OSError:
                # The client has reset the connection before it was accepted.
                continue
            connection.setblocking(False)
            self._watch(connection, partial(self._lines, self._answer(peer)))

    def _lines(self, answer: bytes, connection: socket.socket) -> None:
        try:
            received = connection.recv(4096)
            if received:
                connection.send(answer * received.count(b"\n"))
                return
        except OSError:
            # A client that resets is done, as one that closes.
            pass
        self.selector.unregister(connection)
        connection.close()

    def _datagrams(self, server: socket.socket) -> None:
        while True:
            try:
                _, control, _, peer = server.recvmsg(4096, 64)
                server.sendmsg([self._answer(peer)], same_address(control), 0, peer)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error about an earlier answer: the client is gone.
                continue


def main() -> None:
    """Read the arguments and serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    addresses = sys.argv[3] if len(sys.argv) > 3 else WILDCARDS
    ports = [int(port) for port in sys.argv[2].split(",")]
    Responder(sys.argv[1]).serve(ports, addresses.split(","))


if __name__ == "__main__":
    main()

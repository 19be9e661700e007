# SPDX-License-Identifier: Apache-2.0
"""Real connections to a service over the wire, which go on as long as a test needs them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from pyproxy.model import Family, Protocol
from tests.datapath.wire import FAR, FLAVOURS, NEAR, SERVICE_AT, Wire

TCP = Protocol.TCP


class Talking:
    """A backend in the near namespace, and clients of its service in the far one."""

    def __init__(self, wire: Wire, family: Family, undo: ExitStack) -> None:
        self._wire, self._family, self._undo = wire, family, undo
        self._flavour = FLAVOURS[family]
        self._listener = undo.enter_context(wire.socket(NEAR, family, TCP))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self._flavour.backend(1))
        self._listener.listen()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def connect(self) -> None:
        """Make another connection to the service."""
        made = self._undo.enter_context(self._wire.socket(FAR, self._family, TCP))
        made.connect(self._flavour.service(SERVICE_AT[NEAR]))
        served = self._undo.enter_context(self._listener.accept()[0])
        served.settimeout(made.gettimeout())
        self._pairs.append((made, served))
        self.talk()

    def talk(self) -> None:
        """Send something both ways on every connection."""
        for made, served in self._pairs:
            for sender, receiver in ((made, served), (served, made)):
                sender.sendall(b"still there?")
                assert receiver.recv(64) == b"still there?"

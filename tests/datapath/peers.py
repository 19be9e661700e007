# SPDX-License-Identifier: Apache-2.0
"""Whom a connected socket really talks to: what getpeername() does not say."""

from __future__ import annotations

import os
import socket
import struct

from pyproxy.kernel import libbpf
from pyproxy.kernel.pins import CONNECTED
from pyproxy.model import Family
from tests.datapath.node import Node
from tests.datapath.packets import End

SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
CONNECTED_BYTES, SERVICE_AT = 56, 12  # struct connected of bpf/types.h


class Peers:
    """The maps of connected sockets."""

    def __init__(self, node: Node) -> None:
        shared = node.loaded[Family.IPV4].pins.shared
        self._maps = [libbpf.obj_get(str(shared / name)) for name in CONNECTED]

    def close(self) -> None:
        """Close the maps."""
        for each in self._maps:
            os.close(each)

    def of(self, sock: socket.socket, family: Family) -> End | None:
        """Return a socket's backend, None if it was left alone."""
        cookie = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        values = (libbpf.map_lookup(each, cookie, CONNECTED_BYTES) for each in self._maps)
        value = next(filter(None, values), None)
        if value is None:
            return None
        size = family.address_bytes
        at = SERVICE_AT + size + 4
        (port,) = struct.unpack_from("=H", value, at + size)
        return End(value[at : at + size], port)

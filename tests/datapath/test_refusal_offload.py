# SPDX-License-Identifier: Apache-2.0
"""Refusals of packets whose checksum was left to the device that sends them.

The answer is made of the packet, and so the device makes its checksum, too; or the kernel where
the device cannot, which is the only one that looks at what it finds.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering
from tests.datapath.flavours import PROTOCOLS, SockAddr
from tests.datapath.node import Node
from tests.datapath.services import refusing
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, REQUEST, SERVICE_AT, Wire

SIOCETHTOOL = 0x8946  # include/uapi/linux/sockios.h
ETHTOOL_STXCSUM = 0x17  # include/uapi/linux/ethtool.h


def leave_checksums(wire: Wire, *, to_device: bool) -> None:
    """Have the near device make the checksums of what it sends, or the kernel before it."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, to_device))
    request = struct.pack("16sP16x", DEVICE.encode(), ctypes.addressof(value))
    with wire.socket(NEAR, Family.IPV4, Protocol.UDP) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)


@pytest.mark.parametrize("to_device", [True, False], ids=["device", "kernel"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.name)
def test_a_socket_is_refused(
    covered: Covering, node: Node, family: Family, protocol: Protocol, *, to_device: bool
) -> None:
    """It hears so at once, whoever makes the answer's checksum."""
    wire = covered.wire
    leave_checksums(wire, to_device=to_device)
    node.apply(refusing(family, SERVICE_AT[NEAR], protocol))
    with wire.socket(FAR, family, protocol) as client, pytest.raises(ConnectionRefusedError):
        ask(client, FLAVOURS[family].service(SERVICE_AT[NEAR]))


def ask(client: socket.socket, to: SockAddr) -> None:
    """Wait for what comes of a socket's asking."""
    client.connect(to)
    client.send(REQUEST)
    client.recv(64)

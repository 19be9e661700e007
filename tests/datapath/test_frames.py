# SPDX-License-Identifier: Apache-2.0
"""Frames that are not as most are: headers not in one piece of memory, tags of VLANs.

A frame of more than a page that a packet socket sends with a virtio header is laid out as drivers
do it: as many bytes as that header says are in one piece, the rest in pages.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from pyproxy.kernel.devices import devices
from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering
from tests.datapath.flavours import PORT, SERVICE_PORT, backend_address, service_address
from tests.datapath.hooks import NOPS
from tests.datapath.node import Node, run_ip
from tests.datapath.packets import (
    ETH_P,
    ETH_P_8021Q,
    ETHERNET_BYTES,
    IP_BYTES,
    PLAIN,
    End,
    ether,
    udp,
)
from tests.datapath.services import service
from tests.datapath.wire import (
    DEVICE,
    FAR,
    FLAVOURS,
    NEAR,
    SERVICE_AT,
    Wire,
    end_address,
    other,
)
from tests.lab import netns

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # include/uapi/linux/if_packet.h
TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_NAPI, IFF_NAPI_FRAGS = 0x2, 0x1000, 0x10, 0x20
TAP = "tap"
MTU = 9000
PORTS_BYTES = 4
TEXT = bytes(range(250)) * 20  # more than a page of 4096 bytes


def _raw(wire: Wire, side: str, device: str = DEVICE) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.bind((device, 0))
        return made

    return netns.inside(wire.paths[side], make)


def _send(wire: Wire, side: str, payload: bytes, kind: int, headers: int = 0) -> None:
    """Send a frame of this EtherType by the wire.

    Only its Ethernet header is in one piece, and so many bytes of the headers behind it.
    """
    with _raw(wire, side) as sender, _raw(wire, other(side)) as receiver:
        macs = (each.getsockname()[4] for each in (receiver, sender))
        # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (VIRTIO 1.2, 5.1.6)
        layout = struct.pack("=BBHHHH", 0, 0, ETHERNET_BYTES + headers, 0, 0, 0)
        sender.send(layout + ether(payload, kind, *macs))


@pytest.fixture
def jumbo(covered: Covering, wire: Wire) -> Covering:
    """The near device, covered, on a wire for frames of more than a page."""
    for path in wire.paths.values():
        run_ip(path, f"link set {DEVICE} mtu {MTU}")
    return covered


@pytest.mark.parametrize("ports", [False, True])
def test_headers_that_are_not_in_one_piece(
    jumbo: Covering, node: Node, family: Family, ports: bool
) -> None:
    """What comes in gets the backend's address, what leaves the service's.

    A piece may end with the ports: they say that the packet is worth a look, which fails then.
    """
    headers = IP_BYTES[family] + PORTS_BYTES if ports else 0
    _talk(jumbo.wire, node, family, lambda packet: (packet, ETH_P[family]), headers)


@pytest.fixture
def tap(covered: Covering, wire: Wire) -> Iterator[int]:
    """A covered device of the near side, whose frames are laid out as they are written to it."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        flags = IFF_TAP | IFF_NO_PI | IFF_NAPI | IFF_NAPI_FRAGS
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), flags))
        return fd

    fd = netns.inside(wire.paths[NEAR], make)
    run_ip(wire.paths[NEAR], f"link set {TAP} up")
    assert covered.attach(wire.inside(devices)) == {}
    yield fd
    os.close(fd)


@pytest.mark.parametrize("length", [0, 9, 500])
def test_short_headers_that_are_not_in_one_piece(
    tap: int, wire: Wire, node: Node, family: Family, length: int
) -> None:
    """Of a packet that is shorter than what is asked into one piece elsewhere, too.

    What the kernel's GRO looks at is in one piece afterwards: it does not go behind options.
    """
    flavour, text = FLAVOURS[family], TEXT[:length]
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP, local=1))
    host = socket.inet_pton(flavour.domain, end_address(family, FAR))
    frontend = End(service_address(family, SERVICE_AT[NEAR]), SERVICE_PORT)
    with wire.socket(NEAR, family, Protocol.UDP) as backend, _raw(wire, NEAR, TAP) as own:
        backend.bind(flavour.backend(1))
        packet = udp(End(host, 4242), frontend, text, head=PLAIN._replace(options=NOPS))
        frame = ether(packet, ETH_P[family], own.getsockname()[4])
        os.writev(tap, [frame[:ETHERNET_BYTES], frame[ETHERNET_BYTES:]])
        found, peer = backend.recvfrom(MTU)
    assert (found, peer[:2]) == (text, (end_address(family, FAR), 4242))


def test_priority_tags(jumbo: Covering, node: Node, family: Family) -> None:
    """A tag of VLAN 0 says how urgent a frame is (IEEE 802.1Q), and belongs to no VLAN."""
    _talk(jumbo.wire, node, family, lambda packet: _tagged(packet, family, 0))


def test_tags_of_a_vlan(jumbo: Covering, node: Node, family: Family) -> None:
    """Its frames come by a device of its own (rule 14): where there is none they are nobody's."""
    client = End(socket.inet_pton(FLAVOURS[family].domain, end_address(family, FAR)), 4242)
    frontend = End(service_address(family, SERVICE_AT[NEAR]), SERVICE_PORT)
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP, local=1))
    with node.counting(family, packet_open=1, packet_in=1, packet_out=1):
        _send(jumbo.wire, FAR, *_tagged(udp(client, frontend, TEXT), family, 5))
        # when its answer is there, what came before has passed the program as well
        _talk(jumbo.wire, node, family, lambda packet: _tagged(packet, family, 0))


def _tagged(packet: bytes, family: Family, vlan: int) -> tuple[bytes, int]:
    """Return what is in a frame with a tag, and the frame's type (IEEE 802.1Q)."""
    return struct.pack("!HH", 5 << 13 | vlan, ETH_P[family]) + packet, ETH_P_8021Q


def _talk(
    wire: Wire,
    node: Node,
    family: Family,
    framed: Callable[[bytes], tuple[bytes, int]],
    headers: int = 0,
) -> None:
    """Have a datagram go by the wire, in a frame of a payload and a type, and its answer.

    `headers` is as in _send().
    """
    flavour = FLAVOURS[family]
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP, local=1))
    with (
        wire.socket(NEAR, family, Protocol.UDP) as backend,
        wire.socket(FAR, family, Protocol.UDP) as client,
    ):
        backend.bind(flavour.backend(1))
        client.bind((end_address(family, FAR), 0))
        address, port = client.getsockname()[:2]
        asks = End(socket.inet_pton(flavour.domain, address), port)
        frontend = End(service_address(family, SERVICE_AT[NEAR]), SERVICE_PORT)
        answers = End(backend_address(family, 1), PORT)
        _send(wire, FAR, *framed(udp(asks, frontend, TEXT)), headers)
        text, peer = backend.recvfrom(MTU)
        assert (text, peer[:2]) == (TEXT, (address, port))
        _send(wire, NEAR, udp(answers, asks, TEXT), ETH_P[family], headers)
        text, peer = client.recvfrom(MTU)
        assert (text, peer[:2]) == (TEXT, flavour.service(SERVICE_AT[NEAR]))

# SPDX-License-Identifier: Apache-2.0
"""A tun device whose other end a test holds."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.datapath.asking import TIMEOUT_S
from tests.datapath.node import run_ip
from tests.lab import netns

TUN = "tun0"
TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x1, 0x1000
MOST = 65_536


class Tunnel:
    """The other end: IP packets, with no header before them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, packet: bytes) -> None:
        """Have a packet come in by the device."""
        os.write(self._fd, packet)

    def receive(self, wanted: Callable[[bytes], bool]) -> bytes:
        """Return the first packet that leaves by the device and is wanted; raises TimeoutError."""
        while select.select([self._fd], [], [], TIMEOUT_S)[0]:
            packet = os.read(self._fd, MOST)
            if wanted(packet):
                return packet
        raise TimeoutError(f"nothing that was wanted has left by the tunnel in {TIMEOUT_S} s")


@contextmanager
def tunnel(namespace: Path, *lines: str) -> Iterator[Tunnel]:
    """Make the device in a namespace, up, and run these lines of ip(8) after that."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", TUN.encode(), IFF_TUN | IFF_NO_PI))
        # packets by it need not have a route back
        Path(f"/proc/sys/net/ipv4/conf/{TUN}/rp_filter").write_text("0", encoding="ascii")
        return fd

    fd = netns.inside(namespace, make)
    try:
        run_ip(namespace, f"link set {TUN} up", *lines)
        yield Tunnel(fd)
    finally:
        os.close(fd)

# SPDX-License-Identifier: Apache-2.0
"""The network devices of this network namespace, and word of new ones."""

from __future__ import annotations

import fcntl
import fnmatch
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

RTMGRP_LINK = 1  # include/uapi/linux/rtnetlink.h
RTMGRP_ADDRESSES = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
RTMGRP_ROUTES = 0x40 | 0x400
ARPHRD_ETHER = 1  # include/uapi/linux/if_arp.h
ARPHRD_LOOPBACK = 772
SIOCGIFHWADDR = 0x8927  # include/uapi/linux/sockios.h


class Device(NamedTuple):
    """A device; `has_link_layer`: packets at its hooks begin with an Ethernet header."""

    ifindex: int
    name: str
    has_link_layer: bool


def devices(patterns: Iterable[str] = ()) -> list[Device]:
    """Return the devices that packets of pods and clients come by: all but loopback.

    With shell patterns (--devices), only those whose name matches one. Asked by ioctl:
    pyroute2 would cost every agent 0.15 s at start and 20 MB for good.
    """
    wanted = tuple(patterns) or ("*",)
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for ifindex, name in socket.if_nameindex():
            kind = _link_type(sock, name)
            if kind in {None, ARPHRD_LOOPBACK}:
                continue
            if any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
                found.append(Device(ifindex, name, kind == ARPHRD_ETHER))
    return found


def _link_type(sock: socket.socket, name: str) -> int | None:
    """Return a device's ARPHRD_ number, None if it vanished meanwhile (netdevice(7))."""
    request = struct.pack("16s24x", os.fsencode(name))
    try:
        answer = fcntl.ioctl(sock, SIOCGIFHWADDR, request)
    except OSError:
        return None
    return int(struct.unpack_from("=H", answer, 16)[0])


class Watch:
    """Calls `changed` from a thread of its own when devices, addresses or routes change.

    It returns after how many seconds it is to be called again in any case, None for never;
    `patience` says when the first time.
    """

    def __init__(self, changed: Callable[[], float | None], patience: float | None = None) -> None:
        self._changed = changed
        self._patience = patience
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._netlink.bind((0, RTMGRP_LINK | RTMGRP_ADDRESSES | RTMGRP_ROUTES))
        self._netlink.setblocking(False)
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)

    def start(self) -> None:
        """Begin to watch; changes since the constructor are reported."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._netlink.close()
        os.close(self._stop)

    def _run(self) -> None:
        again = self._patience
        while True:
            ready, _, _ = select.select([self._netlink.fileno(), self._stop], [], [], again)
            if self._stop in ready:
                return
            self._drain()
            again = self._changed()

    def _drain(self) -> None:
        # what the messages say does not matter: the devices are listed anew; an overrun
        # (ENOBUFS) means only that there were many
        while True:
            try:
                self._netlink.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue

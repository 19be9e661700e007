# SPDX-License-Identifier: Apache-2.0
"""Carries packets between tun devices in two namespaces. Run as a script, standard library only.

    python3 -I -S pump.py DEVICE NETNS NETNS

What leaves by the device in one namespace (a file) comes in by that in the other; prints "ready"
when both are open (Documentation/networking/tuntap.rst).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import struct
import sys

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MOST = 65_536


def opened(device: str, namespace: str) -> int:
    """Return a descriptor of the device in a namespace; the process stays there."""
    with open(namespace, "rb") as entered:  # noqa: PTH123 - without pathlib it starts sooner
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(entered.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), namespace)
    number = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(number, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return number


def carry(source: int, sink: int) -> None:
    """Carry what has come; what cannot be taken is lost, as on any wire."""
    for _ in range(64):
        try:
            packet = os.read(source, MOST)
        except BlockingIOError:
            return
        try:
            os.write(sink, packet)
        except OSError:
            continue


def main() -> None:
    """Open both, then carry for ever."""
    device, *namespaces = sys.argv[1:]
    one, two = (opened(device, each) for each in namespaces)
    selector = selectors.DefaultSelector()
    for source, sink in ((one, two), (two, one)):
        selector.register(source, selectors.EVENT_READ, sink)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            carry(key.fd, key.data)


if __name__ == "__main__":
    main()

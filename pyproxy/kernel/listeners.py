# SPDX-License-Identifier: Apache-2.0
"""On which addresses and ports processes of this network namespace listen, from /proc/net."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

from pyproxy.kernel.addresses import PROC_NET
from pyproxy.model import V4_MAPPED, Address, Family, Protocol

# sockets that take what comes from anybody: TCP_LISTEN, and TCP_CLOSE as UDP has it
# (include/net/tcp_states.h)
_WAITING = {Protocol.TCP: "0A", Protocol.UDP: "07"}


def listening(protocol: Protocol, family: Family) -> set[tuple[Address, int]]:
    """Return where somebody waits for connections or datagrams of a family.

    No address stands for all. An IPv6 socket on all addresses counts for IPv4 as well: that it is
    for IPv6 alone is not said.
    """
    found = set(_sockets(protocol, "6"))
    if family is Family.IPV6:
        return found
    mapped = {(a[12:], port) for a, port in found if a.startswith(V4_MAPPED) or not any(a)}
    return mapped | set(_sockets(protocol, ""))


def _sockets(protocol: Protocol, suffix: str) -> Iterator[tuple[Address, int]]:
    try:
        text = (PROC_NET / f"{protocol.name.lower()}{suffix}").read_text("ascii")
    except OSError:  # a kernel without IPv6
        return
    for line in text.splitlines()[1:]:
        _, local, _, state, *_ = line.split(maxsplit=4)
        if state == _WAITING[protocol]:
            address, _, port = local.partition(":")
            yield _address(address), int(port, 16)


def _address(text: str) -> Address:
    """Return an address that is written as words in the order of the machine's bytes."""
    words = struct.unpack(f"!{len(text) // 8}I", bytes.fromhex(text))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)

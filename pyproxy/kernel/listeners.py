# SPDX-License-Identifier: Apache-2.0
"""Which ports processes of this network namespace listen on, from /proc/net."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from pyproxy.model import Protocol

PROC_NET = Path("/proc/thread-self/net")
# sockets that take what comes from anybody: TCP_LISTEN, and TCP_CLOSE as UDP has it
# (include/net/tcp_states.h)
_WAITING = {Protocol.TCP: "0A", Protocol.UDP: "07"}


def listening(protocol: Protocol) -> set[int]:
    """Return the ports on which somebody waits for TCP connections or datagrams, by any address."""
    found: set[int] = set()
    for suffix in ("", "6"):
        found |= set(_ports(PROC_NET / f"{protocol.name.lower()}{suffix}", _WAITING[protocol]))
    return found


def _ports(path: Path, state: str) -> Iterator[int]:
    try:
        lines = path.read_text("ascii").splitlines()[1:]
    except OSError:  # a kernel without IPv6
        return
    for line in lines:
        _, local, _, found, *_ = line.split(maxsplit=4)
        if found == state:
            yield struct.unpack("!H", bytes.fromhex(local.rpartition(":")[2]))[0]

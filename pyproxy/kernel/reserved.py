# SPDX-License-Identifier: Apache-2.0
"""Ports that sockets must not get by themselves, since services are asked for by them (rule 3).

The kernel keeps them in net.ipv4.ip_local_reserved_ports. What stands there already is an
operator's, and stays; what we add is noted in a pinned map, so that whoever comes after us knows
what to take out again. No port that is reserved stands for a client (rule 9).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from pyproxy.errors import KernelError
from pyproxy.kernel import ports
from pyproxy.kernel.maps import ArrayMap

MAP = "kept_ports"
WORD = 64  # bits
WORDS = 65_536 // WORD  # of what must stand for no client; as many of what we reserved


class ReservedPorts:
    """What is reserved in this network namespace; `shared` is where the families' maps are."""

    def __init__(self, shared: Path) -> None:
        self._bits = ArrayMap(str(shared / MAP), write=True)

    def close(self) -> None:
        """Close the map."""
        self._bits.close()

    def keep(self, served: Iterable[int]) -> None:
        """Reserve the ports of services that sockets could get, and give back those of others.

        Raises OSError if the sysctl cannot be read or written; nothing is noted then that is
        not so.
        """
        first, last = ports.local_port_range()
        wanted = {port for port in served if first <= port <= last}
        present, ours = ports.reserved_ports(), self._read(WORDS)
        kept = (present - ours) | wanted
        added = wanted - present
        # whoever finds us killed in between gives back what was never reserved: no harm
        self._write(WORDS, ours | added)
        if kept != present:
            ports.reserve_ports(kept)
        self._write(WORDS, (ours & wanted) | added)
        self._write(0, kept)

    def kept(self) -> set[int]:
        """Return the ports that stand for no client."""
        return self._read(0)

    def _read(self, start: int) -> set[int]:
        raw = memoryview(self._bits.read(start, WORDS)).cast("Q")
        return {
            index * WORD + bit
            for index, word in enumerate(raw)
            if word
            for bit in range(WORD)
            if word >> bit & 1
        }

    def _write(self, start: int, wanted: set[int]) -> None:
        words = [0] * WORDS
        for port in wanted:
            words[port // WORD] |= 1 << port % WORD
        before = memoryview(self._bits.read(start, WORDS)).cast("Q")
        for index, word in enumerate(words):
            if before[index] != word:
                self._bits.store(start + index, word)


def give_back(shared: Path) -> None:
    """Take out of the sysctl what agents have added, if their maps are there."""
    with contextlib.suppress(KernelError, OSError):
        reserved = ReservedPorts(shared)
        try:
            reserved.keep(())
        finally:
            reserved.close()

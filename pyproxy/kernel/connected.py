# SPDX-License-Identifier: Apache-2.0
"""What connected UDP sockets asked for (the map `connected_udp`, which both families share)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel import diag
from pyproxy.kernel.left import End
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.model import Family


class Asked(NamedTuple):
    """A service's address that a socket asked for, and the backend that it got."""

    service: End
    backend: End


class ConnectedSockets:
    """One family's sockets that the map has room for; others keep it in a storage of their own."""

    def __init__(self, shared: Path, family: Family) -> None:
        self._family = family
        self._sockets = HashMap(str(shared / "connected_udp"), ("",), ("family",))
        self._marks = ArrayMap(str(shared / "socket_marks"), write=False)
        # the kernel describes the map as one family has it: addresses follow what both have
        size = family.address_bytes
        self._ends = struct.Struct(
            f"={self._sockets.layout['service.addr'].offset}x{size}sHxx{size}sH"
        )

    def close(self) -> None:
        """Close the maps."""
        self._sockets.close()
        self._marks.close()

    def asked(self) -> Iterator[tuple[bytes, Asked]]:
        """Give what each socket asked for, by its cookie."""
        for cookie, value in self._sockets.raw():
            if self._sockets.value.unpack(value) == (self._family.value,):
                service, port, backend, at = self._ends.unpack_from(value)
                yield cookie, Asked((service, port), (backend, at))

    def end(self, backends: set[End], is_kept: Callable[[Asked], bool]) -> int:
        """End this network namespace's UDP sockets to these backends; return how many.

        Those that asked for the backend itself are left alone, and what is_kept() says. Raises
        OSError where the kernel cannot (CONFIG_INET_UDP_DIAG, CONFIG_INET_DIAG_DESTROY).
        """
        # most backends have no connected socket: nothing is listed for them
        if not any(map(self.may_have, backends)):
            return 0
        lost = {
            cookie
            for cookie, asked in self.asked()
            if asked.backend in backends and not is_kept(asked)
        }
        if not lost:
            return 0
        found = [
            each
            for each in diag.connected_datagram_sockets()
            if each.peer in backends and each.number in lost
        ]
        return sum(diag.destroy(each) for each in found)

    def may_have(self, backend: End) -> bool:
        """Return whether the backend may be some connected socket's."""
        busy = self._marks.layout["busy"]
        raw = self._marks.read(endpoint_hash(*backend))
        return any(raw[busy.offset : busy.offset + busy.size])

# SPDX-License-Identifier: Apache-2.0
"""What connected UDP sockets asked for, of both families (the map `connected_udp`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyproxy.kernel import diag
from pyproxy.kernel.left import End
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.marks import endpoint_hash


class ConnectedSockets:
    """The sockets that the map has room for; others keep it in a storage of their own."""

    def __init__(self, shared: Path) -> None:
        self._sockets = HashMap(str(shared / "connected_udp"), ("",), ("mark",))
        self._marks = ArrayMap(str(shared / "socket_marks"), write=False)

    def close(self) -> None:
        """Close the maps."""
        self._sockets.close()
        self._marks.close()

    def places(self) -> Iterator[int]:
        """Give where the marks of their backends are."""
        return (mark for _, (mark,) in self._sockets.items())

    def end(self, backends: set[End]) -> int:
        """End this network namespace's UDP sockets to these backends; return how many.

        Those that asked for the backend itself are left alone. Raises OSError where the kernel
        cannot (CONFIG_INET_UDP_DIAG, CONFIG_INET_DIAG_DESTROY).
        """
        # most backends have no connected socket: nothing is listed for them
        places = {endpoint_hash(*end) for end in backends if self.may_have(end)}
        if not places:
            return 0
        asked = {cookie for (cookie,), (mark,) in self._sockets.items() if mark in places}
        found = [
            each
            for each in diag.connected_datagram_sockets()
            if each.peer in backends and each.number in asked
        ]
        return sum(diag.destroy(each) for each in found)

    def may_have(self, backend: End) -> bool:
        """Return whether the backend may be some connected socket's."""
        busy = self._marks.layout["busy"]
        raw = self._marks.read(endpoint_hash(*backend))
        return any(raw[busy.offset : busy.offset + busy.size])

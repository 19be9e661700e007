# SPDX-License-Identifier: Apache-2.0
"""Unmarking the ends of connections and sockets that are gone.

The programs set both bytes of a busy mark after they have written the connection's record (or
the socket's entry), and a packet (or socket) is looked at if either is set. A sweep first sees
to it that both say all they must, whatever an earlier one that was killed has left. Then one
byte at a time is cleared in all marks and set again where something asks for it, while the
other one stands for it. So no mark of what lives is ever missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pyproxy.kernel.barrier import wait_for_readers
from pyproxy.kernel.connections import Connections
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.kernel.pins import CONNECTED

BUSY = "busy"

# Gives the marks that are needed, slice by slice.
Needed = Callable[[], Iterator[Iterable[int]]]


def of_connections(connections: Connections) -> Needed:
    """Return what gives the marks of the ends of all connections."""
    return lambda: (connections.hashes(start, now_ticks()) for start in connections.slices)


def of_sockets(shared: Path) -> Needed:
    """Return what gives the marks of the backends of all connected sockets, a map a slice."""

    def needed() -> Iterator[list[int]]:
        for name in CONNECTED:
            connected = HashMap(str(shared / name), (), ("mark",))
            try:
                yield [mark for _, (mark,) in connected.items()]
            finally:
                connected.close()

    return needed


def mark(needed: Needed, marks: ArrayMap, pause: Callable[[], bool] = lambda: False) -> bool:
    """Set the busy marks of all that is alive, and clear none; `pause` is as in sweep().

    Return whether it was done to the end.
    """
    return _mark(needed, marks, _both(marks), pause)


def sweep(needed: Needed, marks: ArrayMap, pause: Callable[[], bool]) -> None:
    """Bring the busy marks up to date; `pause` is called after each slice, True ends it."""
    if not mark(needed, marks, pause):
        return
    for offset in _both(marks):
        marks.clear_bytes(offset)
        # a program that set the byte before has written its record once it has ended
        wait_for_readers()
        if not _mark(needed, marks, (offset,), pause):
            return


def _both(marks: ArrayMap) -> range:
    """Return where the busy bytes of a mark are."""
    busy = marks.layout[BUSY]
    return range(busy.offset, busy.offset + busy.size)


def _mark(
    needed: Needed, marks: ArrayMap, offsets: Iterable[int], pause: Callable[[], bool]
) -> bool:
    """Set these bytes of all marks that are needed; return whether it was done to the end."""
    for part in needed():
        for index in part:
            for offset in offsets:
                marks.write_byte(index, offset, 1)
        if pause():
            return False
    return True

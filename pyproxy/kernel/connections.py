# SPDX-License-Identifier: Apache-2.0
"""The connection table of one family, as user space sees it: how full it is, and its marks.

Nothing has to be collected here for the programs to work: they check a record's age when they
find it, and take what is over for a new connection. What only user space can do is to unmark
ends of connections that are gone, so that their packets are passed without a look-up again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path

from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.kernel.packetpath import REFRESH_TICKS, SETTINGS
from pyproxy.tables import ConnectionTimeouts

SLICE = 2048  # records looked at in one go: 256 KiB, one window

# those of every connection first, then those of one that has an address of this node as source
_ENDS = ("life", "frontend.addr", "frontend.port", "backend.addr", "backend.port",
         "client.addr", "client_port", "source.addr", "source.port")  # fmt: skip


class Life(enum.IntFlag):
    """What state a connection is in: `enum life` of bpf/types.h."""

    CLAIMED = 1
    READY = 2
    UDP = 4
    REPLIED = 8
    ESTABLISHED = 16
    FIN_CLIENT = 32
    FIN_BACKEND = 64
    RESET = 128
    CLASH = 256
    PASS = 512
    SOURCE_WANTED = 1024
    SOURCE_CLAIMED = 2048
    SOURCE_READY = 4096
    OWN = 8192
    MARKED = 16384
    WAY_REQUEST = 32768
    WAY_REPLY = 65536
    LASTS = 131072


FIN = Life.FIN_CLIENT | Life.FIN_BACKEND


def timeout_setting(flags: int) -> str:
    """Return the name of the timeout that holds in a state, as life_timeout() does in C."""
    if flags & Life.UDP:
        return "udp_stream" if flags & Life.ESTABLISHED else "udp"
    if flags & Life.RESET or flags & FIN == FIN:
        return "tcp_closed"
    if flags & FIN:
        return "tcp_close_wait"
    return "tcp_established" if flags & Life.ESTABLISHED else "tcp_opening"


class Connections:
    """The pinned records of one family; `maps` is where the timeouts are pinned."""

    def __init__(self, table: Path, maps: Path) -> None:
        self._records = ArrayMap(str(table / "connections"), write=False)
        self._settings = ArrayMap(str(maps / "settings"), write=False)
        self._ends = self._records.codec(_ENDS)
        self._life = self._records.layout["life"].offset // 8

    def close(self) -> None:
        """Close the maps."""
        self._records.close()
        self._settings.close()

    @property
    def max(self) -> int:
        """How many connections there can be: record 0 is none."""
        return self._records.max - 1

    @property
    def slices(self) -> range:
        """The first record of each slice."""
        return range(0, self._records.max, SLICE)

    def used(self, now: int) -> int:
        """Return how many connections there are at a time in ticks."""
        timeouts = self._timeouts()
        return sum(
            1 for start in self.slices for _ in self._alive(self._read(start), now, timeouts)
        )

    def hashes(self, start: int, now: int) -> Iterator[int]:
        """Give where the marks are of the ends by which packets of a slice's connections are known.

        They are those that ends_mark() of bpf/open.h marks: one more would cost packets that are
        no connection's a look-up each.
        """
        raw = self._read(start)
        for number in self._alive(raw, now, self._timeouts()):
            life, *ends = self._ends.unpack(raw, number * self._records.stride)
            if life & Life.PASS:
                continue
            known = ends if life & Life.SOURCE_WANTED else ends[:4]
            for address, port in zip(known[::2], known[1::2], strict=True):
                yield endpoint_hash(address, port)

    def _read(self, start: int) -> bytes:
        return self._records.read(start, min(SLICE, self._records.max - start))

    def _alive(self, raw: bytes, now: int, timeouts: dict[str, int]) -> Iterator[int]:
        """Give which of the records in `raw` are connections."""
        lives = memoryview(raw).cast("Q")[self._life :: self._records.stride // 8].tolist()
        # most slices of most tables are empty, and flags of plain numbers are quicker
        if not any(lives):
            return
        ready = int(Life.READY)
        for number, life in enumerate(lives):
            if life & ready:
                age = now - (life >> 32) & 0xFFFFFFFF
                # a packet that comes while we read makes a record younger than `now`
                if age <= timeouts[timeout_setting(life)] or age > 0x7FFFFFFF:
                    yield number

    def _timeouts(self) -> dict[str, int]:
        """Return the timeouts in ticks; is_expired() knows none that is shorter than a refresh."""
        return {
            name: max(self._settings.load(SETTINGS.index(name)), REFRESH_TICKS)
            for name in ConnectionTimeouts._fields
        }

# SPDX-License-Identifier: Apache-2.0
"""What each service of one family has had so far, by its id: the maps `begun` and `traffic`."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable

from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.pins import Pins
from pyproxy.tables import ServiceCounters


class Traffic:
    """The counters of one family's services. Not for several threads at once."""

    def __init__(self, pins: Pins, *, write: bool = False) -> None:
        self._begun = ArrayMap(str(pins.maps / "begun"), write=write)
        self._traffic = ArrayMap(str(pins.maps / "traffic"), write=write)
        self._begun_fields = self._begun.codec(("sockets", "packets"))
        self._traffic_fields = self._traffic.codec(("packets", "bytes"))

    @property
    def _shards(self) -> range:
        """Where each shard begins in `traffic`."""
        return range(0, self._traffic.max, self._begun.max)

    def read(self, services: Collection[int]) -> dict[int, ServiceCounters]:
        """Return the counters of service ids."""
        if not services:
            return {}
        first, last = min(services), max(services)
        begun = self._words(self._begun, first, last)
        traffic = self._words(self._traffic, first, last)
        for shard in self._shards[1:]:
            more = self._words(self._traffic, shard + first, shard + last)
            traffic = list(map(operator.add, traffic, more))
        at = ((service, 2 * (service - first)) for service in services)
        return {
            service: ServiceCounters(begun[n], begun[n + 1], traffic[n], traffic[n + 1])
            for service, n in at
        }

    def forget(self, services: Iterable[int]) -> None:
        """Let service ids begin with zeros, since they are to be somebody else's."""
        for service in services:
            self._begun.write(service, self._begun_fields.pack(0, 0))
            for shard in self._shards:
                self._traffic.write(shard + service, self._traffic_fields.pack(0, 0))

    def close(self) -> None:
        """Close the maps."""
        self._begun.close()
        self._traffic.close()

    @staticmethod
    def _words(array: ArrayMap, first: int, last: int) -> list[int]:
        """Return both words of elements, one after the other: all at once, there are many."""
        return memoryview(array.read(first, last - first + 1)).cast("Q").tolist()

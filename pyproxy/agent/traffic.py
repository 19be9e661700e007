# SPDX-License-Identifier: Apache-2.0
"""What each service has had so far, for who asks from another thread than the agent's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from pyproxy.kernel.pins import Pins
from pyproxy.kernel.traffic import Traffic
from pyproxy.model import Family, ServicePortName
from pyproxy.tables import ServiceCounters


class ServiceTraffic:
    """The counters of all services, read from the maps when they are asked for.

    `ids` says which service ids a family's service ports have; it is called from other threads.
    """

    def __init__(
        self, pins: Mapping[Family, Pins], ids: Callable[[Family], Mapping[ServicePortName, int]]
    ) -> None:
        self._ids = ids
        self._traffic = {family: Traffic(each) for family, each in pins.items()}
        self._lock = threading.Lock()  # of the mapped windows, which move

    def __call__(self) -> dict[tuple[Family, ServicePortName], ServiceCounters]:
        """Return the counters by family and service port."""
        found = {}
        with self._lock:
            for family, traffic in self._traffic.items():
                ids = self._ids(family)
                counters = traffic.read(ids.values())
                found.update({(family, name): counters[n] for name, n in ids.items()})
        return found

    def close(self) -> None:
        """Close the maps."""
        with self._lock:
            for traffic in self._traffic.values():
                traffic.close()

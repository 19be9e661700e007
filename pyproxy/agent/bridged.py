# SPDX-License-Identifier: Apache-2.0
"""A thread that says again and again that pods reach each other by a bridge, while that is so.

What it says leaves connected UDP sockets to packets (kernel/bridges.py), which a pod's device has
programs for only if an agent saw it appear. So it holds for LEASE_S alone: pods that start while no
agent runs have their sockets translated.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from pyproxy.kernel.packetpath import PacketPath
from pyproxy.model import Family

BEAT_S = 2.0
LEASE_S = 6


class Bridged:
    """Tells the socket programs of each family whether pods share a bridge."""

    def __init__(self, paths: Mapping[Family, PacketPath], beat_s: float = BEAT_S) -> None:
        self._paths = paths
        self._beat_s = beat_s
        self._families: frozenset[Family] = frozenset()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bridges", daemon=True)

    def start(self) -> None:
        """Begin to say again what use() was told."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; from now on no pods share a bridge."""
        self._stop.set()
        self._thread.join()
        self.use(())

    def use(self, families: Collection[Family]) -> None:
        """Say at once of which families there are pods on a bridge."""
        with self._lock:
            self._families = frozenset(families)
            self._say(self._paths)

    def _run(self) -> None:
        while not self._stop.wait(self._beat_s):
            with self._lock:
                self._say(self._families)

    def _say(self, families: Collection[Family]) -> None:
        for family in families:
            self._paths[family].write_bridged(LEASE_S if family in self._families else 0)

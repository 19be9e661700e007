# SPDX-License-Identifier: Apache-2.0
"""A thread that now and then unmarks the ends of connections and sockets that are gone.

It owns nothing that another thread writes: the programs' marks are the programs' and its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pyproxy.agent.kernel import Loaded
from pyproxy.kernel.inspect import counters
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.sweep import of_connections, of_sockets, sweep

EVERY_S = 60.0
SLICE_PAUSE_S = 0.02  # other threads run in between: a slice takes 1 ms, 8 ms if all are used


class Sweeper:
    """Sweeps the marks where connections have begun since the last time."""

    def __init__(self, loaded: Iterable[Loaded], every_s: float = EVERY_S) -> None:
        self._loaded = tuple(loaded)
        self._every_s = every_s
        # what was marked by an earlier agent's time is swept the first time
        self._counts = [dict.fromkeys(("packet_open", "connect"), -1) for _ in self._loaded]
        self._shared = self._loaded[0].pins.shared
        self._socket_marks = ArrayMap(str(self._shared / "socket_marks"), write=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, in the middle of a sweep too."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._sweep()

    def _sweep(self) -> None:
        now = [counters(each.pins) for each in self._loaded]
        for each, before, count in zip(self._loaded, self._counts, now, strict=True):
            if count["packet_open"] != before["packet_open"]:
                sweep(of_connections(each.connections), each.datapath.marks, self._pause)
        if [each["connect"] for each in now] != [each["connect"] for each in self._counts]:
            sweep(of_sockets(self._shared), self._socket_marks, self._pause)
        self._counts = now

    def _pause(self) -> bool:
        return self._stop.wait(SLICE_PAUSE_S)

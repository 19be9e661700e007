# SPDX-License-Identifier: Apache-2.0
"""How threads that talk to the API server are ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pyproxy.kube.client import Line

# What end() may take, in seconds. Only name look-ups, connecting (Pace.connect_s) and plugins
# cannot be cut short; a thread caught in one of them tells nothing any more and ends after it.
STOP_S = 0.9
_HANG_UP_EVERY_S = 0.02


def end(threads: Sequence[threading.Thread], lines: Sequence[Line]) -> None:
    """Wait for threads that were told to stop, cutting short what their lines wait for."""
    deadline = time.monotonic() + STOP_S
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        for line in lines:
            line.hang_up()
        for thread in threads:
            thread.join(_HANG_UP_EVERY_S)

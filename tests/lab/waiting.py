# SPDX-License-Identifier: Apache-2.0
"""Bounded waits for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object],
    timeout_s: float,
    what: str,
    interval_s: float = 0.005,
) -> float:
    """Ask `condition` until it is true; return the seconds waited.

    Raises TimeoutError, which names `what` was waited for, after `timeout_s`.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(interval_s)
    return time.monotonic() - started

# SPDX-License-Identifier: Apache-2.0
"""Guards on the devices, for as long as some service drops.

A guard costs every packet some 25 ns, so a node on which no service drops has none. They are
attached before the first service that drops is published, and go in a quiet moment after the
last one.
"""

from __future__ import annotations

import logging

from pyproxy.kernel.devices import devices
from pyproxy.kernel.guards import Guards

log = logging.getLogger(__name__)


class Cover:
    """The guards of one family.

    `is_on` says whether there may be any; `failures` names devices that could not be covered,
    and why.
    """

    def __init__(self, guards: Guards, digest: str, patterns: tuple[str, ...]) -> None:
        self._guards = guards
        self._digest = digest
        self._patterns = patterns
        self._needed = False
        self.is_on = guards.exist()  # an earlier agent left some
        self.failures: list[str] = []

    def need(self) -> None:
        """Cover all devices if they are not covered yet."""
        if not self._needed:
            self._needed = self.is_on = True
            self.refresh()

    def refresh(self) -> None:
        """Cover devices that appeared, and forget those that are gone, while there is need."""
        if not self._needed:
            return
        before = set(self.failures)
        self.failures = self._guards.attach(self._digest, devices(self._patterns))
        for failure in self.failures:
            if failure not in before:
                log.error("no guard on %s", failure)

    def release(self) -> None:
        """Take the guards off."""
        self._guards.detach(devices())
        self._needed, self.is_on, self.failures = False, False, []

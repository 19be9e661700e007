# SPDX-License-Identifier: Apache-2.0
"""Restores what others have changed in the kernel; nothing tells of that, so it is looked for.

kube-proxy does the same once a syncPeriod (parity A15.8). Devices are the Cover's matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pyproxy.agent.kernel import Loaded
from pyproxy.agent.sync import Syncers
from pyproxy.errors import KernelError, PyproxyError
from pyproxy.kernel import load, sockets
from pyproxy.kernel.entries import join
from pyproxy.model import Family

log = logging.getLogger(__name__)

SHARE = 0.01  # of a CPU, at most: 10,000 services are looked at less often


class PinsGoneError(PyproxyError):
    """Pins of programs or maps were removed: only a start makes all of them again."""


class Upkeep:
    """Looks at everything once a period, in steps of some ms, and mends what is not as it was.

    The thread that owns the maps calls step() when patience() is over; it does what comes in
    between the steps. `more` are further looks, which mend by themselves.
    """

    def __init__(
        self,
        cgroup_root: Path,
        loaded: Mapping[Family, Loaded],
        syncers: Syncers,
        period_s: float,
        *,
        more: Iterable[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._cgroup_root = cgroup_root
        self._loaded = dict(loaded)
        self._syncers = syncers
        self._period_s = period_s
        self._more = tuple(more)
        self._clock, self._cpu_clock = clock, cpu_clock
        self._steps: Iterator[None] | None = None
        self._due = clock() + period_s
        self._spent_s = 0.0

    def patience(self) -> float:
        """Return for how many seconds there is nothing to do for step()."""
        return 0.0 if self._steps else max(self._due - self._clock(), 0.0)

    def step(self) -> None:
        """Do a part of the work; raises PinsGoneError where it needs a new start."""
        started = self._cpu_clock()
        if self._steps is None:
            self._steps, self._spent_s = self._look(), 0.0
        is_done = next(self._steps, self) is self
        self._spent_s += self._cpu_clock() - started
        if is_done:
            self._steps = None
            self._due = self._clock() + max(self._period_s, self._spent_s / SHARE)

    def _look(self) -> Iterator[None]:
        for look in (self._pins, self._sockets, self._arrays, self._settings, *self._more):
            try:
                look()
            except (KernelError, OSError) as error:
                log.error("what others may have changed is not known: %s", error)  # noqa: TRY400 - the message says it
            yield
        yield from self._syncers.audit()

    def _pins(self) -> None:
        gone = [pin for each in self._loaded.values() for pin in each.pinned if not pin.exists()]
        if gone:
            raise PinsGoneError(f"pins were removed: {len(gone)}, {gone[0]} among them")

    def _sockets(self) -> None:
        for family, each in self._loaded.items():
            changed = sockets.attach(each.pins, each.digest, self._cgroup_root)
            if changed:
                log.warning(
                    "%d %s socket programs were gone: attached again", changed, family.label
                )

    def _arrays(self) -> None:
        changed = join({family: each.programs for family, each in self._loaded.items()})
        changed += sum(load.fill_stages(each.programs) for each in self._loaded.values())
        if changed:
            log.warning("%d programs were gone from our program arrays: put back", changed)

    def _settings(self) -> None:
        for family, each in self._loaded.items():
            wrong = ", ".join(each.path.mend())
            if wrong:
                log.warning("%s: settings were changed: %s; written again", family.label, wrong)

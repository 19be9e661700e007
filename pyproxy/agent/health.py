# SPDX-License-Identifier: Apache-2.0
"""Whether this node is served: kube-proxy's rules (parity A12.5, A12.6), and what is our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from pyproxy.model import Family, Node
from pyproxy.plan.health import is_eligible
from pyproxy.serve.health import FamilyHealth, Health

LOOK_EVERY_S = 0.5  # at the programs: a thousand services may be asked for all the time


class Healthiness:
    """A family is unhealthy if its oldest change that is not applied is `timeout_s` old, or older.

    Changes wait in the queue (`queued_at`), are being applied, or have failed. A device that cannot
    be covered is one, too, of both families. And `are_attached` is asked: a family whose
    programs somebody has taken off the cgroup is unhealthy at once. Waiting for the first lists is
    no fault.

    One thread tells; health() and is_healthy() are called from those of servers.
    """

    def __init__(
        self,
        families: Iterable[Family],
        *,
        timeout_s: float,
        queued_at: Callable[[], float | None],
        are_attached: Callable[[Family], bool],
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._families = tuple(families)
        self._timeout_s = timeout_s
        self._queued_at = queued_at
        self._are_attached = are_attached
        self._clock = clock
        self._now_ns = now_ns
        self._has_lists = False
        self._pending: dict[Family, float] = {}
        self._updated_ns: dict[Family, int] = {}
        self._uncovered_at: float | None = None
        self._eligible = False
        self._attached: dict[Family, bool] = {}
        self._look_at = clock()

    def begin(self, queued_at: float | None) -> None:
        """Note that changes are being applied, the oldest of which were queued then."""
        if queued_at is not None:
            for family in self._families:
                self._pending.setdefault(family, queued_at)

    def settle(self, unwritten: Collection[Family], *, has_lists: bool = True) -> None:
        """Note that all changes are applied but those of some families, which will be."""
        self._has_lists = has_lists
        for family in self._families:
            if family in unwritten:
                self._pending.setdefault(family, self._clock())
            elif self._pending.pop(family, None) is not None and has_lists:
                self._updated_ns[family] = self._now_ns()

    def know_node(self, node: Node | None, *, must_be_known: bool) -> None:
        """Take over what this node's Node object says; None: there is none.

        That is a fault unless nobody describes nodes.
        """
        self._eligible = is_eligible(node) or (node is None and not must_be_known)

    def know_devices(self, *, covered: bool) -> None:
        """Take over whether all devices are covered."""
        if covered:
            self._uncovered_at = None
        elif self._uncovered_at is None:
            self._uncovered_at = self._clock()

    def health(self) -> Health:
        """Return the health of now."""
        now = self._clock()
        attached = self._attachment(now)
        families = {
            family: FamilyHealth(
                attached[family] and not self._is_late(family, now),
                self._updated_ns.get(family, 0),
            )
            for family in self._families
        }
        return Health(families, self._eligible)

    def is_healthy(self) -> bool:
        """Return whether all families are healthy (parity A11.5)."""
        return self.health().healthy

    def _is_late(self, family: Family, now: float) -> bool:
        marks = [self._uncovered_at, self._pending.get(family)]
        if self._has_lists:
            marks.append(self._queued_at())
        return any(now - each >= self._timeout_s for each in marks if each is not None)

    def _attachment(self, now: float) -> dict[Family, bool]:
        if not self._attached or now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._attached = {family: self._are_attached(family) for family in self._families}
        return self._attached

# SPDX-License-Identifier: Apache-2.0
"""Runs of slots: a buddy allocator, so that freed runs of any size are whole again.

Slot 0 is never handed out: in services[] it means "never written".
"""

from __future__ import annotations


class Slots:
    """Hands out runs of a power of two slots from `total` (itself a power of two)."""

    def __init__(self, total: int) -> None:
        if total & (total - 1) or total < 2:
            raise ValueError(f"{total} is no power of two")
        self._top = total.bit_length() - 1
        self._free: list[set[int]] = [set() for _ in range(self._top + 1)]
        self._free[self._top].add(0)
        self.used = 0
        self.take_at(0, 1)

    def take(self, count: int) -> int | None:
        """Return the first slot of a free run of at least `count` slots, None if there is none."""
        order = order_of(count)
        for larger in range(order, self._top + 1):
            if self._free[larger]:
                first = self._free[larger].pop()
                self._split(first, larger, order)
                self.used += 1 << order
                return first
        return None

    def take_at(self, first: int, count: int) -> bool:
        """Take the run that begins at `first`; return False if it is not free or no run's begin."""
        order = order_of(count)
        if first % (1 << order):
            return False
        for larger in range(order, self._top + 1):
            base = first >> larger << larger
            if base in self._free[larger]:
                self._free[larger].remove(base)
                self._split_towards(base, larger, first, order)
                self.used += 1 << order
                return True
        return False

    def give_back(self, first: int, count: int) -> None:
        """Free a run that take() or take_at() returned for the same count."""
        order = order_of(count)
        self.used -= 1 << order
        while order < self._top and first ^ (1 << order) in self._free[order]:
            self._free[order].remove(first ^ (1 << order))
            first &= ~(1 << order)
            order += 1
        self._free[order].add(first)

    def _split(self, first: int, larger: int, order: int) -> None:
        for half in range(larger - 1, order - 1, -1):
            self._free[half].add(first + (1 << half))

    def _split_towards(self, base: int, larger: int, first: int, order: int) -> None:
        for half in range(larger - 1, order - 1, -1):
            upper = base + (1 << half)
            if first >= upper:
                self._free[half].add(base)
                base = upper
            else:
                self._free[half].add(upper)


def order_of(count: int) -> int:
    """Return the order of the run for `count` slots: it has 1 << order of them."""
    return max(count - 1, 0).bit_length()

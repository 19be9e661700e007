# SPDX-License-Identifier: Apache-2.0
"""UDP backends that left their service, to which connected sockets may be sending yet.

Their marks are set as frontends' are, so that packets to them are looked at: bpf/left.h finds out
what a datagram's socket asked for. A mark too many costs those packets a look-up, no more.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyproxy.kernel.marks import FrontendMarks
from pyproxy.model import Address

End = tuple[Address, int]

# A marked end is one of 2^19: with so many, one of 128 others is looked at for nothing.
MOST = 4_096


class LeftBackends:
    """Which they are, the newest ones of one family; a start knows the former agent's by hash."""

    def __init__(self, marks: FrontendMarks, most: int = MOST) -> None:
        self._marks = marks
        self._most = most
        self._left: dict[End, None] = {}
        self._fresh: set[End] = set()

    def __len__(self) -> int:
        return len(self._left)

    def reset(self, sockets: Iterable[int], members: Iterable[End]) -> None:
        """Begin anew, after the marks did.

        `sockets` is where the marks of connected sockets' backends are, `members` are the ends of
        all that are members of a service.
        """
        self._left.clear()
        places = set(sockets)
        if places:
            places.difference_update(self._marks.index(*end) for end in members)
        for index in places:
            self._marks.note_whole(index)

    def leave(self, ends: Iterable[End]) -> None:
        """Note backends that are about to leave."""
        for end in ends:
            if self._left.pop(end, self) is self:
                self._marks.note(*end)
            self._left[end] = None
            self._fresh.add(end)
            if len(self._left) > self._most:
                self._forget(next(iter(self._left)))

    def take_fresh(self) -> set[End]:
        """Return, once, those that have left since the last time and are no backends again."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def rejoin(self, ends: Iterable[End]) -> None:
        """Forget those that are backends again."""
        for end in ends:
            if end in self._left:
                self._forget(end)

    def _forget(self, end: End) -> None:
        del self._left[end]
        self._fresh.discard(end)
        self._marks.forget(*end)

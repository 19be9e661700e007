# SPDX-License-Identifier: Apache-2.0
"""UDP backends that left their service, to which connected sockets may be sending yet.

Their marks are set as frontends' are, so that packets to them are looked at: bpf/left.h finds out
what a datagram's socket asked for. A mark too many costs those packets a look-up, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from pyproxy.kernel.marks import FrontendMarks
from pyproxy.model import Address

End = tuple[Address, int]

# A marked end is one of 2^19: with so many, one of 128 others is looked at for nothing.
MOST = 4_096


class LeftBackends:
    """Which they are, of one family; a start knows the former agent's by hash.

    `is_used` says whether some connected socket may have a backend. Where there are more than
    `most`, those that none has are forgotten; else an eighth of them, the oldest.
    """

    def __init__(
        self, marks: FrontendMarks, is_used: Callable[[End], bool], most: int = MOST
    ) -> None:
        self._marks = marks
        self._is_used = is_used
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
        leaving = dict.fromkeys(ends)
        for end in leaving:
            if self._left.pop(end, self) is self:
                self._marks.note(*end)
        self._make_room(len(leaving))
        self._left |= leaving
        self._fresh |= leaving.keys()
        self._forget_oldest(len(self._left) - self._most)

    def take_fresh(self) -> set[End]:
        """Return, once, those that have left since the last time and are no backends again."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def rejoin(self, ends: Iterable[End]) -> None:
        """Forget those that are backends again."""
        for end in ends:
            if end in self._left:
                self._forget(end)

    def _make_room(self, more: int) -> None:
        if len(self._left) + more <= self._most:
            return
        for end in [end for end in self._left if not self._is_used(end)]:
            self._forget(end)
        too_many = len(self._left) + more - self._most
        if too_many > 0:
            # many at once: all are looked through for that
            self._forget_oldest(max(too_many, self._most // 8))

    def _forget_oldest(self, number: int) -> None:
        for end in list(islice(self._left, max(number, 0))):
            self._forget(end)

    def _forget(self, end: End) -> None:
        del self._left[end]
        self._fresh.discard(end)
        self._marks.forget(*end)

# SPDX-License-Identifier: Apache-2.0
"""UDP backends that left their service, to which connected sockets may be sending yet.

Their marks are set as frontends' are, so that packets to them are looked at: bpf/left.h finds out
what a datagram's socket asked for. A mark too many costs those packets a look-up, no more. One that
is another service's backend has left its own all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from pyproxy.kernel.marks import FrontendMarks
from pyproxy.model import Address

End = tuple[Address, int]
Backend = tuple[int, Address, int]  # of a service, by its id

# A marked end is one of 2^19: with so many, one of 128 others is looked at for nothing.
MOST = 4_096


class LeftBackends:
    """Which they are, of one family.

    `is_used` says whether some connected socket may have a backend. Where there are more than
    `most`, those that none has are forgotten; else an eighth of them, the oldest.
    """

    def __init__(
        self, marks: FrontendMarks, is_used: Callable[[End], bool], most: int = MOST
    ) -> None:
        self._marks = marks
        self._is_used = is_used
        self._most = most
        self._left: dict[Backend, None] = {}
        self._fresh: set[Backend] = set()

    def __len__(self) -> int:
        return len(self._left)

    def reset(self, left: Iterable[Backend]) -> None:
        """Begin anew, after the marks did, with what sockets have that is no member by now."""
        self._left.clear()
        self._fresh.clear()
        self.leave(left)
        self._fresh.clear()

    def leave(self, backends: Iterable[Backend]) -> None:
        """Note backends that are about to leave."""
        leaving = dict.fromkeys(backends)
        for each in leaving:
            if self._left.pop(each, self) is self:
                self._marks.note(*each[1:])
        self._make_room(len(leaving))
        self._left |= leaving
        self._fresh |= leaving.keys()
        self._forget_oldest(len(self._left) - self._most)

    def take_fresh(self) -> set[End]:
        """Return, once, those that have left since the last time and are no backends again."""
        fresh, self._fresh = self._fresh, set()
        return {each[1:] for each in fresh}

    def rejoin(self, backends: Iterable[Backend]) -> None:
        """Forget those that are their service's again."""
        for each in backends:
            if each in self._left:
                self._forget(each)

    def _make_room(self, more: int) -> None:
        if len(self._left) + more <= self._most:
            return
        for each in [each for each in self._left if not self._is_used(each[1:])]:
            self._forget(each)
        too_many = len(self._left) + more - self._most
        if too_many > 0:
            # many at once: all are looked through for that
            self._forget_oldest(max(too_many, self._most // 8))

    def _forget_oldest(self, number: int) -> None:
        for each in list(islice(self._left, max(number, 0))):
            self._forget(each)

    def _forget(self, backend: Backend) -> None:
        del self._left[backend]
        self._fresh.discard(backend)
        self._marks.forget(*backend[1:])

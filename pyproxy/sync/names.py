# SPDX-License-Identifier: Apache-2.0
"""Numbers for things that maps name by number: service ids and node names."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator


class Ids:
    """Hands out the smallest free number from 1 to `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 1
        self._free: list[int] = []
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """Return a free number, None if all are taken."""
        while self._free:
            number = heapq.heappop(self._free)
            if number not in self._taken:
                self._taken.add(number)
                return number
        while self._next in self._taken:
            self._next += 1
        if self._next > self._most:
            return None
        self._taken.add(self._next)
        return self._next

    def adopt(self, number: int) -> None:
        """Take a number that is in use already."""
        self._taken.add(number)

    def give_back(self, number: int) -> None:
        """Free a number."""
        self._taken.discard(number)
        if 0 < number < self._next:
            heapq.heappush(self._free, number)

    def __len__(self) -> int:
        return len(self._taken)


class NodeNumbers:
    """Numbers of node names, each kept while a backend uses it."""

    def __init__(self, most: int) -> None:
        self._ids = Ids(most)
        self._numbers: dict[str, int] = {}
        self._users: dict[str, int] = {}

    def use(self, name: str) -> tuple[int, bool]:
        """Return the number of a node name and whether it is new; 0 if there is no room or name."""
        if not name:
            return 0, False
        if name in self._numbers:
            self._users[name] += 1
            return self._numbers[name], False
        number = self._ids.take()
        if number is None:
            return 0, False
        self._numbers[name], self._users[name] = number, 1
        return number, True

    def release(self, names: Iterable[str]) -> list[int]:
        """Give up one use of each name; return the numbers that nothing uses any more.

        They are not handed out again before free() gets them back.
        """
        gone = []
        for name in names:
            if name not in self._users:
                continue
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                gone.append(self._numbers.pop(name))
        return gone

    def free(self, numbers: Iterable[int]) -> None:
        """Let numbers be handed out again."""
        for number in numbers:
            self._ids.give_back(number)

    def reserve(self, numbers: Iterable[int]) -> None:
        """Keep numbers from being handed out until free() gets them."""
        for number in numbers:
            self._ids.adopt(number)

    def numbers(self) -> Iterator[tuple[int, str]]:
        """Yield each number that is in use, and its name."""
        return ((number, name) for name, number in self._numbers.items())

    def adopt(self, name: str, number: int) -> None:
        """Take a name whose number is in the kernel already."""
        if name not in self._numbers:
            self._ids.adopt(number)
            self._numbers[name], self._users[name] = number, 0
        self._users[name] += 1

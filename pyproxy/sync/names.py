# SPDX-License-Identifier: Apache-2.0
"""Numbers for things that maps name by number: service ids and node names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator


class Ids:
    """Hands out numbers from 1 to `most`, what was given back as late as can be.

    A number that came back at once would bring along what is still keyed by it: a UDP flow that
    was silent while its Service was deleted and made anew would count as one of the new Service.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 1  # neither this one nor any above it was ever handed out
        self._free: deque[int] = deque()
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """Return a free number, None if all are taken."""
        number = self._next if self._next <= self._most else self._oldest()
        if number is not None:
            self.adopt(number)
        return number

    def adopt(self, number: int) -> None:
        """Take a number that is in use already."""
        self.skip(number - 1)
        self._next = max(self._next, number + 1)
        self._taken.add(number)

    def skip(self, most: int) -> None:
        """Hand out none up to this one while there are others."""
        self._free.extend(range(self._next, most + 1))
        self._next = max(self._next, most + 1)

    def take_this(self, number: int) -> bool:
        """Take a number if it is free; return whether it was."""
        if number in self._taken or not 0 < number <= self._most:
            return False
        self.adopt(number)
        return True

    def give_back(self, number: int) -> None:
        """Free a number."""
        if number in self._taken:
            self._taken.remove(number)
            self._free.append(number)

    def _oldest(self) -> int | None:
        while self._free:
            number = self._free.popleft()
            if number not in self._taken:
                return number
        return None

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

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self) -> Iterator[tuple[int, str]]:
        """Yield each number that is in use, and its name."""
        return ((number, name) for name, number in self._numbers.items())

    def adopt(self, name: str, number: int) -> None:
        """Take a name whose number is in the kernel already."""
        if name not in self._numbers:
            self._ids.adopt(number)
            self._numbers[name], self._users[name] = number, 0
        self._users[name] += 1

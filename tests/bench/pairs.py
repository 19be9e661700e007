# SPDX-License-Identifier: Apache-2.0
"""Two variants compared by interleaved pairs of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from tests.bench.load import Window

T = TypeVar("T")


class Pair(NamedTuple):
    """Two windows that were run one right after the other."""

    proxied: Window
    bare: Window

    @property
    def ratio(self) -> float:
        """The rate with the proxy by the rate without."""
        return self.proxied.rate / self.bare.rate


def interleave(first: Callable[[], T], second: Callable[[], T], pairs: int) -> list[tuple[T, T]]:
    """Run both so many times in the order A B B A A B ...; return (A's, B's) of each pair.

    The order changes from pair to pair, so that what the machine does steadily (a clock that
    falls, a cache that fills) helps each variant as often as it harms it.
    """
    results = []
    for number in range(pairs):
        if number % 2:
            late = second()
            results.append((first(), late))
        else:
            results.append((first(), second()))
    return results

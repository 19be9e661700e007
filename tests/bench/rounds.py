# SPDX-License-Identifier: Apache-2.0
"""Variants compared by windows that take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice, permutations
from typing import TypeVar

T = TypeVar("T")
ALL_ORDERS = 4


def interleave(variants: Sequence[Callable[[], T]], rounds: int) -> list[tuple[T, ...]]:
    """Run each variant once a round; return the rounds' results in the order of `variants`.

    Every order of the variants takes its turn (two: A B B A A B), so that what the machine does
    steadily (a clock that falls, a cache that fills) and what one variant leaves to the next
    help each of them as often as they harm it. For five and more those are too many orders: twice
    as many as there are variants do the same.
    """
    orders = islice(cycle(orders_of(len(variants))), rounds)
    return [_round(variants, order) for order in orders]


def orders_of(count: int) -> list[tuple[int, ...]]:
    """Return orders in which each variant has each place, and follows each other, equally often.

    All of them up to four. From five on a design of Williams: 0, 1, n-1, 2, n-2 ... and what comes
    of it by counting on, each of them backwards, too.
    """
    if count <= ALL_ORDERS:
        return list(permutations(range(count)))
    first = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    forth = [tuple((each + shift) % count for each in first) for shift in range(count)]
    return [order for each in forth for order in (each, each[::-1])]


def _round(variants: Sequence[Callable[[], T]], order: Sequence[int]) -> tuple[T, ...]:
    results = {number: variants[number]() for number in order}
    return tuple(results[number] for number in range(len(variants)))

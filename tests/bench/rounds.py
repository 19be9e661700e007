# SPDX-License-Identifier: Apache-2.0
"""Variants compared by windows that take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice, permutations
from typing import TypeVar

T = TypeVar("T")


def interleave(variants: Sequence[Callable[[], T]], rounds: int) -> list[tuple[T, ...]]:
    """Run each variant once a round; return the rounds' results in the order of `variants`.

    Every order of the variants takes its turn (two: A B B A A B), so that what the machine does
    steadily (a clock that falls, a cache that fills) and what one variant leaves to the next
    help each of them as often as they harm it.
    """
    orders = islice(cycle(permutations(range(len(variants)))), rounds)
    return [_round(variants, order) for order in orders]


def _round(variants: Sequence[Callable[[], T]], order: Sequence[int]) -> tuple[T, ...]:
    results = {number: variants[number]() for number in order}
    return tuple(results[number] for number in range(len(variants)))

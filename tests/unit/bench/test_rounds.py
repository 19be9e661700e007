# SPDX-License-Identifier: Apache-2.0
"""Variants take turns in every order, and a result stays with its variant."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise

import pytest

from tests.bench.rounds import interleave, orders_of


def _orders(names: str, rounds: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the names in the order in which they ran, a word a round, and the results."""
    ran: list[str] = []

    def variant(name: str) -> str:
        ran.append(name)
        return f"{name}{len(ran)}"

    results = interleave([partial(variant, name) for name in names], rounds)
    size = len(names)
    return ["".join(ran[at : at + size]) for at in range(0, len(ran), size)], results


def test_pairs_alternate() -> None:
    """Two run in the order A B B A A B, and every result is still (A, B)."""
    orders, results = _orders("AB", 3)
    assert orders == ["AB", "BA", "AB"]
    assert results == [("A1", "B2"), ("A4", "B3"), ("A5", "B6")]


def test_triples_take_every_order() -> None:
    """In twelve rounds of three each of the six orders comes twice."""
    orders, results = _orders("ABC", 12)
    assert set(Counter(orders).values()) == {2}
    assert len(set(orders)) == 6
    assert all([each[0] for each in result] == ["A", "B", "C"] for result in results)


def test_each_variant_follows_each_other_equally_often() -> None:
    """Whatever a variant leaves behind, it leaves it to the others alike, within a round."""
    orders, _ = _orders("ABC", 6)
    followed = Counter(order[at : at + 2] for order in orders for at in (0, 1))
    assert set(followed.values()) == {2}


@pytest.mark.parametrize("count", [5, 6, 7])
def test_many_variants_take_balanced_orders(count: int) -> None:
    """Twice as many orders as variants: each has each place, and follows each other, as often."""
    orders = orders_of(count)
    assert len(orders) == 2 * count
    assert all(sorted(order) == list(range(count)) for order in orders)
    places = Counter((place, each) for order in orders for place, each in enumerate(order))
    followed = Counter(pair for order in orders for pair in pairwise(order))
    assert set(places.values()) == {2}
    assert set(followed.values()) == {2}
    assert len(followed) == count * (count - 1)

# SPDX-License-Identifier: Apache-2.0
"""Which addresses the kernel is asked about: load balancers' that not all may ask."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyproxy.agent.filtered import Filtered
from pyproxy.model import Family
from pyproxy.plan.claims import PlanKey
from pyproxy.tables import PortPlan
from tests.unit.sync.plans import plan

ONE, TWO = (bytes((10, 97, 0, number)) for number in (1, 2))


class Cover:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Collection[bytes]] = []

    def ask_from(self, addresses: Collection[bytes]) -> None:
        """Stand for Cover.ask_from."""
        self.told.append(addresses)


def change(name: str, **fields: Any) -> dict[PlanKey, PortPlan | None]:
    """Return a changed plan, one that is gone without fields."""
    made = plan(name, **fields)
    return {PlanKey(made.name, Family.IPV4): made if fields else None}


def test_addresses_come_and_go_with_their_plans() -> None:
    """Only load balancers' have ranges, and an address counts while any service has it."""
    cover = Cover()
    filtered = Filtered(cover)  # type: ignore[arg-type] # has what Filtered uses
    both = change("a", balanced=(1, 2), sources=(7,)) | change("b", balanced=(2,), sources=(7,))
    filtered.take(both)
    filtered.take(change("a", balanced=(1,), sources=(7,)))
    filtered.take(change("b"))
    filtered.take(change("a", balanced=(1,)))
    filtered.take(change("never"))
    assert cover.told == [{ONE, TWO}, {ONE, TWO}, {ONE}, set(), set()]

# SPDX-License-Identifier: Apache-2.0
"""Says which addresses have loadBalancerSourceRanges: what the node asks those from must be known.

A socket that connects has no address yet, and which one it gets a route may say (parity A10).
"""

from __future__ import annotations

from collections.abc import Mapping

from pyproxy.agent.cover import Cover
from pyproxy.model import Address
from pyproxy.plan.claims import PlanKey
from pyproxy.tables import Kind, PortPlan


class Filtered:
    """Collects such addresses from plans, for Cover."""

    def __init__(self, cover: Cover) -> None:
        self._cover = cover
        self._known: dict[PlanKey, frozenset[Address]] = {}

    def take(self, changes: Mapping[PlanKey, PortPlan | None]) -> None:
        """Take over changed plans, before they are in force."""
        for key, plan in changes.items():
            if addresses := _addresses(plan):
                self._known[key] = addresses
            else:
                self._known.pop(key, None)
        self._cover.ask_from(frozenset[Address]().union(*self._known.values()))


def _addresses(plan: PortPlan | None) -> frozenset[Address]:
    if plan is None or not plan.source_ranges:
        return frozenset()
    balanced = (each for each in plan.frontends if each.kind is Kind.LOAD_BALANCER)
    return frozenset(each.key.address for each in balanced)

# SPDX-License-Identifier: Apache-2.0
"""Who gets a frontend that several service ports claim.

Kubernetes lets two Services name one external address and port; kube-proxy leaves it to chance
(parity A2.9). Here the older Service has it, whatever the order of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyproxy.model import Family, ServicePortName
from pyproxy.tables import FrontendKey, PortPlan


class PlanKey(NamedTuple):
    """Names a plan: a service port in a family."""

    name: ServicePortName
    family: Family


class Conflict(NamedTuple):
    """A frontend that several service ports claim: who has it, and who goes without."""

    frontend: FrontendKey
    winner: ServicePortName
    losers: tuple[ServicePortName, ...]


class Claim(NamedTuple):
    """A plan's claim to its frontends; the smallest one wins.

    `created` is RFC 3339 text in UTC, which sorts by age; without one a service is youngest.
    """

    is_undated: bool
    created: str
    key: PlanKey


def key_of(plan: PortPlan) -> PlanKey:
    """Return the name of a plan."""
    return PlanKey(plan.name, plan.family)


def _claim_of(plan: PortPlan) -> Claim:
    return Claim(not plan.created, plan.created, key_of(plan))


class Claims:
    """All claims to frontends. Families can't clash: their addresses differ in length."""

    def __init__(self) -> None:
        self._winners: dict[FrontendKey, Claim] = {}
        self._contested: dict[FrontendKey, list[Claim]] = {}

    def add(self, plan: PortPlan) -> set[PlanKey]:
        """Enter a plan's claims; return which others may have lost a frontend."""
        claim = _claim_of(plan)
        touched = set()
        for frontend in plan.frontends:
            winner = self._winners.setdefault(frontend.key, claim)
            if winner is not claim:
                touched.add(winner.key)
                rivals = self._contested.setdefault(frontend.key, [winner])
                rivals.append(claim)
                self._winners[frontend.key] = min(winner, claim)
        return touched

    def remove(self, plan: PortPlan) -> set[PlanKey]:
        """Withdraw a plan's claims; return which others may have gained a frontend."""
        claim = _claim_of(plan)
        return {
            heir
            for frontend in plan.frontends
            if (heir := self._withdraw(frontend.key, claim)) is not None
        }

    def _withdraw(self, frontend: FrontendKey, claim: Claim) -> PlanKey | None:
        rivals = self._contested.get(frontend)
        if rivals is None:
            del self._winners[frontend]
            return None
        rivals.remove(claim)
        self._winners[frontend] = min(rivals)
        if len(rivals) == 1:
            del self._contested[frontend]
        return self._winners[frontend].key

    def granted(self, plan: PortPlan) -> PortPlan:
        """Return a plan without the frontends that others have."""
        if not self._contested:
            return plan
        claim = _claim_of(plan)
        mine = tuple(f for f in plan.frontends if self._winners[f.key] == claim)
        return plan if len(mine) == len(plan.frontends) else plan._replace(frontends=mine)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield every contested frontend, sorted by address, port and protocol."""
        for frontend, rivals in sorted(self._contested.items()):
            winner, *losers = sorted(rivals)
            names = tuple(loser.key.name for loser in losers)
            yield Conflict(frontend, winner.key.name, names)

    def is_empty(self) -> bool:
        """Whether nothing is claimed, and no memory kept of what was."""
        return not self._winners and not self._contested

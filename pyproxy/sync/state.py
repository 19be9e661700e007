# SPDX-License-Identifier: Apache-2.0
"""What one service port has, or is to have, in the kernel: comparable by value."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pyproxy.model import Prefix, Records
from pyproxy.sync.api import Header, Run
from pyproxy.tables import Backend, Frontend, Member, PortPlan


class State(NamedTuple):
    """A service port's entries in all maps, without the numbers that sync gives.

    `frontends`, `members` and `sources` are sorted.
    """

    created: str
    frontends: tuple[Frontend, ...]
    header: Header
    backends: Records[Backend]
    members: Records[Member]
    sources: tuple[Prefix, ...] = ()


class Programmed(NamedTuple):
    """A service port that is in the kernel: its id, its published run and what both hold."""

    service: int
    run: Run
    state: State

    @property
    def slots(self) -> int:
        """How many slots its run takes."""
        return 1 + len(self.run.backends)


def state_of(plan: PortPlan | None, serves: Callable[[PortPlan, Frontend], bool]) -> State | None:
    """Return what is to be in the kernel for a plan; None if nothing is.

    `serves` says which frontends this datapath can serve.
    """
    frontends = tuple(sorted(f for f in plan.frontends if serves(plan, f))) if plan else ()
    if not plan or not frontends:
        return None
    header = _shared_header(
        plan.local_count,
        plan.cluster_offset,
        plan.cluster_count,
        plan.affinity_timeout_s,
        int(plan.flags),
    )
    return State(plan.created, frontends, header, plan.backends, plan.members, plan.source_ranges)


@lru_cache(maxsize=1024)
def _shared_header(*fields: int) -> Header:
    """Return one and the same header for equal fields: thousands of services have the same."""
    return Header(*fields)

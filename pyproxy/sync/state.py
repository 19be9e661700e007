# SPDX-License-Identifier: Apache-2.0
"""What one service port has, or is to have, in the kernel: comparable by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyproxy.sync.api import Header, Run
from pyproxy.tables import Backend, Frontend, Member, PortPlan, ServiceFlag


class State(NamedTuple):
    """A service port's entries in all maps, without the numbers that sync gives."""

    created: str
    frontends: frozenset[Frontend]
    header: Header
    backends: tuple[Backend, ...]
    members: frozenset[Member]


class Programmed(NamedTuple):
    """A service port that is in the kernel: its id, its published run and what both hold."""

    service: int
    run: Run
    state: State

    @property
    def slots(self) -> int:
        """How many slots its run takes."""
        return 1 + len(self.run.backends)


def state_of(plan: PortPlan | None, serves: Callable[[Frontend], bool]) -> State | None:
    """Return what is to be in the kernel for a plan; None if nothing is.

    `serves` says which frontends this datapath can serve.
    """
    frontends = frozenset(filter(serves, plan.frontends)) if plan else frozenset()
    if not plan or not frontends:
        return None
    header = Header(
        plan.local_count,
        plan.cluster_offset,
        plan.cluster_count,
        plan.affinity_timeout_s,
        int(plan.flags),
    )
    return State(plan.created, frontends, header, plan.backends, frozenset(plan.members))


def drops(state: State) -> bool:
    """Return whether connections to the service are dropped (parity A8.2)."""
    wanted = ServiceFlag.INTERNAL_LOCAL | ServiceFlag.HAS_ENDPOINTS
    return state.header.flags & wanted == wanted and not state.header.local_count

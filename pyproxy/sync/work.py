# SPDX-License-Identifier: Apache-2.0
"""One round of writes, and the one order in which they are made.

A reader never meets a frontend whose service is missing, a service whose slots are missing,
or slots that change under its eyes:

1. names, members and slots that nothing leads to yet
2. services: each one store, from the old backends to the new (here a change takes effect)
3. frontends that lead to published services, then those that go away
4. services withdrawn, members and names nobody can ask for any more
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyproxy.sync.api import Datapath, FrontendValue, NamedService, Run
from pyproxy.tables import FrontendKey, Member


@dataclass(slots=True)
class Work:
    """The writes of one round."""

    names: list[tuple[int, NamedService]] = field(default_factory=list)
    nodes: list[tuple[int, str]] = field(default_factory=list)
    members: list[tuple[int, Member]] = field(default_factory=list)
    runs: list[tuple[int, Run]] = field(default_factory=list)
    frontends: dict[FrontendKey, FrontendValue] = field(default_factory=dict)
    gone_frontends: set[FrontendKey] = field(default_factory=set)
    gone_services: list[tuple[int, int]] = field(default_factory=list)
    gone_members: list[tuple[int, Member]] = field(default_factory=list)
    gone_names: list[int] = field(default_factory=list)
    gone_nodes: list[int] = field(default_factory=list)
    # what readers may still be using when all is written: runs as (first slot, slots), ids
    limbo_runs: list[tuple[int, int]] = field(default_factory=list)
    limbo_ids: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many map entries are written or deleted."""
        puts = len(self.names) + len(self.nodes) + len(self.members) + len(self.runs)
        gone = len(self.gone_services) + len(self.gone_members) + len(self.gone_names)
        frontends = len(self.frontends) + len(self.gone_frontends)
        return puts + gone + frontends + len(self.gone_nodes)

    def write(self, datapath: Datapath, dropping_before: int, dropping_after: int) -> None:
        """Make the writes; raises KernelError and leaves the rest undone at the first failure."""
        # the guard must know of a service that drops before it does, and until it no longer does
        if dropping_after > dropping_before:
            datapath.set_dropping(dropping_after)
        self._prepare(datapath)
        for service, run in self.runs:
            datapath.publish(service, run.first, run.generation)
        self._switch_frontends(datapath)
        self._clear(datapath)
        if dropping_after < dropping_before:
            datapath.set_dropping(dropping_after)

    def _prepare(self, datapath: Datapath) -> None:
        if self.names:
            datapath.put_names(self.names)
        if self.nodes:
            datapath.put_nodes(self.nodes)
        if self.members:
            datapath.put_members(self.members)
        for service, run in self.runs:
            datapath.write_run(service, run)

    def _switch_frontends(self, datapath: Datapath) -> None:
        if self.frontends:
            datapath.put_frontends(list(self.frontends.items()))
        if self.gone_frontends:
            datapath.delete_frontends(self.gone_frontends)

    def _clear(self, datapath: Datapath) -> None:
        for service, generation in self.gone_services:
            datapath.publish(service, 0, generation)
        if self.gone_members:
            datapath.delete_members(self.gone_members)
        if self.gone_names:
            datapath.delete_names(self.gone_names)
        if self.gone_nodes:
            datapath.delete_nodes(self.gone_nodes)

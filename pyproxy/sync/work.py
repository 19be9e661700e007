# SPDX-License-Identifier: Apache-2.0
"""One round of writes, and the one order in which they are made.

A reader never meets a frontend whose service is missing, a service whose slots are missing,
or slots that change under its eyes:

1. names, members, sources and slots that nothing leads to yet; members that go: nobody asks for
   them before the service's generation has changed, and whoever asks then must not find them;
   frontends that not everybody may ask any more
2. services: each one store, from the old backends to the new (here a change takes effect)
3. frontends that lead to published services, then those that go away
4. services withdrawn, sources and names nobody can ask for any more
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from pyproxy.model import Prefix, Records
from pyproxy.sync.api import Datapath, FrontendValue, NamedService, Run
from pyproxy.tables import FrontendKey, Member

_Item = TypeVar("_Item")

# What is written at once is held in several forms: at a start that would be most of the memory.
_AT_ONCE = 1024


@dataclass(slots=True)
class Work:
    """The writes of one round."""

    # ids that others have had: what was counted for those is none of who gets them
    reused: list[int] = field(default_factory=list)
    names: list[tuple[int, NamedService]] = field(default_factory=list)
    nodes: list[tuple[int, str]] = field(default_factory=list)
    members: list[tuple[int, Records[Member]]] = field(default_factory=list)
    sources: list[tuple[int, Prefix]] = field(default_factory=list)
    runs: list[tuple[int, Run]] = field(default_factory=list)
    frontends: dict[FrontendKey, FrontendValue] = field(default_factory=dict)
    # those that are there already and from now on are only for `sources`
    closed_frontends: dict[FrontendKey, FrontendValue] = field(default_factory=dict)
    gone_frontends: set[FrontendKey] = field(default_factory=set)
    gone_services: list[tuple[int, int]] = field(default_factory=list)
    gone_members: list[tuple[int, Member]] = field(default_factory=list)
    gone_sources: list[tuple[int, Prefix]] = field(default_factory=list)
    gone_names: list[int] = field(default_factory=list)
    gone_nodes: list[int] = field(default_factory=list)
    # what readers may still be using when all is written: runs as (first slot, slots), ids
    limbo_runs: list[tuple[int, int]] = field(default_factory=list)
    limbo_ids: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many map entries are written or deleted."""
        members = sum(len(found) for _, found in self.members)
        puts = len(self.names) + len(self.nodes) + members + len(self.runs)
        gone = len(self.gone_services) + len(self.gone_members) + len(self.gone_names)
        frontends = len(self.frontends) + len(self.closed_frontends) + len(self.gone_frontends)
        sources = len(self.sources) + len(self.gone_sources)
        return puts + gone + frontends + sources + len(self.gone_nodes)

    def write(self, datapath: Datapath) -> None:
        """Make the writes; raises KernelError and leaves the rest undone at the first failure."""
        self._prepare(datapath)
        for service, run in self.runs:
            datapath.publish(service, run.first, run.generation)
        self._switch_frontends(datapath)
        self._clear(datapath)

    def _prepare(self, datapath: Datapath) -> None:
        if self.reused:
            datapath.forget_counters(self.reused)
        for names in _parts(self.names):
            datapath.put_names(names)
        for nodes in _parts(self.nodes):
            datapath.put_nodes(nodes)
        if self.gone_members:
            datapath.delete_members(self.gone_members)
        for members in _parts((service, one) for service, found in self.members for one in found):
            datapath.put_members(members)
        for sources in _parts(self.sources):
            datapath.put_sources(sources)
        for service, run in self.runs:
            datapath.write_run(service, run)
        if self.closed_frontends:
            datapath.put_frontends(list(self.closed_frontends.items()))

    def _switch_frontends(self, datapath: Datapath) -> None:
        for frontends in _parts(self.frontends.items()):
            datapath.put_frontends(frontends)
        if self.gone_frontends:
            datapath.delete_frontends(self.gone_frontends)

    def _clear(self, datapath: Datapath) -> None:
        for service, generation in self.gone_services:
            datapath.publish(service, 0, generation)
        if self.gone_sources:
            datapath.delete_sources(self.gone_sources)
        if self.gone_names:
            datapath.delete_names(self.gone_names)
        if self.gone_nodes:
            datapath.delete_nodes(self.gone_nodes)


def _parts(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yield items as lists of a bounded length, none of them empty."""
    rest = iter(items)
    while part := list(islice(rest, _AT_ONCE)):
        yield part

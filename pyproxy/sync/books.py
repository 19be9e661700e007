# SPDX-License-Identifier: Apache-2.0
"""What sync knows to be in the kernel, and which numbers are free.

The books are filled from the kernel at start and after a failed write, and kept in step
with every round of writes in between.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping

from pyproxy.model import Packed, ServicePortName
from pyproxy.sync.api import FrontendValue, Room, Run, SlotBackend, Snapshot
from pyproxy.sync.names import Ids, NodeNumbers
from pyproxy.sync.slots import Slots
from pyproxy.sync.state import Programmed, State
from pyproxy.sync.work import Work
from pyproxy.tables import Backend, BackendFlag, Frontend, FrontendKey, Member


class Books:
    """The kernel's contents as sync knows them."""

    def __init__(self, room: Room, generation_of: Callable[[int], int]) -> None:
        self.room = room
        self._generation_of = generation_of
        self.programmed: dict[ServicePortName, Programmed] = {}
        self.frontends: dict[FrontendKey, FrontendValue] = {}
        self.ids = Ids(room.services - 1)  # index 0 is "never written"
        self.nodes = NodeNumbers(room.nodes)
        self.slots = Slots(room.slots)
        self.member_count = 0
        self.source_count = 0
        # what no reader may use any more, but may still be reading
        self.limbo_runs: list[tuple[int, int]] = []
        self.limbo_ids: list[int] = []
        self._former: dict[ServicePortName, int] = {}
        self._first_generation = 0

    def counts(self) -> Room:
        """Return how many entries each map has; slots that wait for their readers do not count."""
        backends = sum(len(entry.run.backends) for entry in self.programmed.values())
        services = len(self.programmed)
        return Room(
            frontends=len(self.frontends),
            services=services,
            slots=services + backends,
            members=self.member_count,
            nodes=len(self.nodes),
            sources=self.source_count,
        )

    def continue_from(self, former: Mapping[ServicePortName, int]) -> None:
        """Give services the ids by which older connections know them.

        Their generations were another layout's: ours begin where none of those is met by chance.
        """
        if former:
            self._former = dict(former)
            self._first_generation = secrets.randbits(32)
            self.ids.skip(max(former.values()))

    def take_id(self, name: ServicePortName) -> int | None:
        """Return a free id for a service port, the one that it had if that is known."""
        had = self._former.pop(name, 0)
        return had if self.ids.take_this(had) else self.ids.take()

    def was_used(self, service: int) -> bool:
        """Return whether a service id has been somebody's in these maps."""
        return bool(self._generation_of(service))

    def next_generation(self, service: int) -> int:
        """Return the generation for the next run of a service id; never 0."""
        last = self._generation_of(service) or self._first_generation
        return (last + 1) & 0xFFFFFFFF or 1

    def enter(self, name: ServicePortName, entry: Programmed) -> None:
        """Note that a service port has this in the kernel now."""
        if name in self.programmed:
            self.strike(name)
        self.programmed[name] = entry
        self.member_count += len(entry.state.members)
        self.source_count += len(entry.state.sources)

    def strike(self, name: ServicePortName) -> None:
        """Note that a service port has nothing in the kernel any more."""
        entry = self.programmed.pop(name)
        self.member_count -= len(entry.state.members)
        self.source_count -= len(entry.state.sources)

    def close_round(self, work: Work) -> None:
        """Note that a round of writes was made in full."""
        self.limbo_runs += work.limbo_runs
        self.limbo_ids += work.limbo_ids
        self.nodes.free(work.gone_nodes)

    def free_limbo(self) -> None:
        """Free what waited for its readers; call after Datapath.wait_for_readers()."""
        for first, count in self.limbo_runs:
            self.slots.give_back(first, count)
        for service in self.limbo_ids:
            self.ids.give_back(service)
        self.limbo_runs, self.limbo_ids = [], []


def adopt(
    snapshot: Snapshot, room: Room, generation_of: Callable[[int], int]
) -> tuple[Books, Work]:
    """Return the books of what is in the kernel, and the removal of what makes no sense there."""
    books = Books(room, generation_of)
    books.frontends = dict(snapshot.frontends)
    books.continue_from(snapshot.former)
    by_service: defaultdict[int, set[Frontend]] = defaultdict(set)
    for key, value in snapshot.frontends.items():
        by_service[value.service].add(Frontend(key, value.kind, value.bindable))
    known: set[int] = set()
    for service, named in sorted(snapshot.names.items()):
        run = snapshot.runs.get(service)
        if run is None or named.name in books.programmed:
            continue
        if not books.slots.take_at(run.first, 1 + len(run.backends)):
            continue
        entry = _entry(snapshot, service, run, by_service[service])
        books.ids.adopt(service)
        _adopt_nodes(books, snapshot, run)
        books.enter(named.name, entry)
        known.add(service)
    return books, _leftovers(snapshot, known, books)


def _entry(snapshot: Snapshot, service: int, run: Run, frontends: set[Frontend]) -> Programmed:
    state = State(
        snapshot.names[service].created,
        tuple(sorted(frontends)),
        run.header,
        Packed(Backend, (_backend(slot, snapshot.nodes) for slot in run.backends)),
        Packed(Member, sorted(snapshot.members.get(service, ()))),
        tuple(sorted(snapshot.sources.get(service, ()))),
    )
    return Programmed(service, run._replace(backends=Packed(SlotBackend, run.backends)), state)


def _backend(slot: SlotBackend, nodes: dict[int, str]) -> Backend:
    return Backend(slot.address, slot.port, BackendFlag(slot.flags), nodes.get(slot.node, ""))


def _adopt_nodes(books: Books, snapshot: Snapshot, run: Run) -> None:
    for slot in run.backends:
        if slot.node in snapshot.nodes:
            books.nodes.adopt(snapshot.nodes[slot.node], slot.node)


def _leftovers(snapshot: Snapshot, known: set[int], books: Books) -> Work:
    used = {slot.node for entry in books.programmed.values() for slot in entry.run.backends}
    gone: list[tuple[int, Member]] = [
        (service, member)
        for service, members in snapshot.members.items()
        if service not in known
        for member in members
    ]
    gone_frontends = {k for k, v in snapshot.frontends.items() if v.service not in known}
    for key in gone_frontends:
        del books.frontends[key]
    gone_nodes = [number for number in snapshot.nodes if number not in used]
    led_to = {value.service for value in snapshot.frontends.values()}
    named = snapshot.names.keys() | snapshot.runs.keys() | snapshot.members.keys()
    ids = (named | snapshot.sources.keys() | led_to) - known
    ids.discard(0)  # "no service": it is nobody's, and never handed out
    # nobody gets these numbers while what they stood for is still being removed
    for service in ids:
        books.ids.adopt(service)
    books.nodes.reserve(gone_nodes)
    return Work(
        gone_frontends=gone_frontends,
        gone_services=[(s, snapshot.runs[s].generation) for s in snapshot.runs if s not in known],
        gone_members=gone,
        gone_sources=[
            (service, source)
            for service, sources in snapshot.sources.items()
            if service not in known
            for source in sources
        ],
        gone_names=[s for s in snapshot.names if s not in known],
        gone_nodes=gone_nodes,
        limbo_ids=list(ids),
    )

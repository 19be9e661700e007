# SPDX-License-Identifier: Apache-2.0
"""How one service port gets into a round of writes, and out of the kernel again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyproxy.model import Packed, Records, ServicePortName
from pyproxy.sync.api import FrontendValue, NamedService, Run, SlotBackend
from pyproxy.sync.books import Books
from pyproxy.sync.state import Programmed, State
from pyproxy.sync.work import Work
from pyproxy.tables import Backend, Frontend, Kind, Member


class _MemberChanges(NamedTuple):
    """What a service port's members need: those to be written, those to be deleted."""

    new: Records[Member]
    gone: list[Member]


def place(books: Books, work: Work, name: ServicePortName, state: State) -> str:
    """Add to work what brings a service port to state, and note it in the books.

    Returns "" or why it does not fit; then neither work nor books have changed, and the
    service port keeps what it has.
    """
    entry = books.programmed.get(name)
    members = _member_changes(entry, state)
    reason = _shortage(books, work, members, entry, state)
    if reason:
        return reason
    service = entry.service if entry else books.take_id(name)
    was_used = service is not None and books.was_used(service)
    if service is None:
        return _full("services", len(books.ids), books.room.services - 1)
    run = _run(books, work, service, entry, state, anew=bool(members.gone))
    if run is None:
        if entry is None:
            books.ids.give_back(service)
        return _full("slots", books.slots.used, books.room.slots)
    if entry is None and was_used:
        work.reused.append(service)
    if entry is None or entry.state.created != state.created:
        work.names.append((service, NamedService(name, state.created)))
    if members.new:
        work.members.append((service, members.new))
    work.gone_members += [(service, member) for member in members.gone]
    _sources(work, service, entry, state)
    _frontends(books, work, service, entry, state)
    books.enter(name, Programmed(service, run, state))
    return ""


def renew(books: Books, work: Work, name: ServicePortName) -> bool:
    """Add to work what gives a service port the same backends in other slots, and note it.

    Returns False if there are none.
    """
    entry = books.programmed[name]
    run = _run(books, work, entry.service, entry, entry.state, anew=True)
    if run is None:
        return False
    books.enter(name, entry._replace(run=run))
    return True


def remove(books: Books, work: Work, name: ServicePortName) -> None:
    """Add to work what takes a service port out of the kernel, and note it in the books."""
    entry = books.programmed[name]
    books.strike(name)
    _leave_frontends(books, work, entry.service, entry.state.frontends)
    work.gone_services.append((entry.service, entry.run.generation))
    work.gone_members += [(entry.service, member) for member in entry.state.members]
    work.gone_sources += [(entry.service, source) for source in entry.state.sources]
    work.gone_names.append(entry.service)
    work.gone_nodes += books.nodes.release(b.node for b in entry.state.backends)
    work.limbo_runs.append((entry.run.first, entry.slots))
    work.limbo_ids.append(entry.service)


def _full(what: str, used: int, room: int) -> str:
    return f"the map {what} is full ({used} of {room} used)"


def _shortage(
    books: Books, work: Work, members: _MemberChanges, entry: Programmed | None, state: State
) -> str:
    new = sum(frontend.key not in books.frontends for frontend in state.frontends)
    if len(books.frontends) + len(work.gone_frontends) + new > books.room.frontends:
        return _full("frontends", len(books.frontends), books.room.frontends)
    # old members stay until the new ones are published
    if books.member_count + len(work.gone_members) + len(members.new) > books.room.members:
        return _full("members", books.member_count, books.room.members)
    sources = set(state.sources).difference(entry.state.sources if entry else ())
    if books.source_count + len(work.gone_sources) + len(sources) > books.room.sources:
        return _full("sources", books.source_count, books.room.sources)
    return ""


def _sources(work: Work, service: int, entry: Programmed | None, state: State) -> None:
    before, now = set(entry.state.sources if entry else ()), set(state.sources)
    work.sources += [(service, source) for source in sorted(now - before)]
    work.gone_sources += [(service, source) for source in sorted(before - now)]


def _run(
    books: Books, work: Work, service: int, entry: Programmed | None, state: State, *, anew: bool
) -> Run | None:
    """Return the run of a service, None if there is no room; `anew`: even if it is the same.

    A new generation is what makes UDP ask whether its backend is a member still.
    """
    same = entry and (entry.state.header, entry.state.backends) == (state.header, state.backends)
    if entry and same and not anew:
        return entry.run
    first = books.slots.take(1 + len(state.backends))
    if first is None:
        return None
    backends = Packed(SlotBackend, (_slot(books, work, each) for each in state.backends))
    run = Run(first, books.next_generation(service), state.header, backends)
    work.runs.append((service, run))
    if entry:
        work.limbo_runs.append((entry.run.first, entry.slots))
        # after the new run took its uses: a name that stays is never released in between
        work.gone_nodes += books.nodes.release(b.node for b in entry.state.backends)
    return run


def _slot(books: Books, work: Work, backend: Backend) -> SlotBackend:
    number, is_new = books.nodes.use(backend.node)
    if is_new:
        work.nodes.append((number, backend.node))
    return SlotBackend(backend.address, backend.port, int(backend.flags), number)


def _member_changes(entry: Programmed | None, state: State) -> _MemberChanges:
    if entry is None:
        return _MemberChanges(state.members, [])
    if entry.state.members == state.members:
        return _MemberChanges((), [])
    before, now = list(entry.state.members), list(state.members)
    known = set(before)
    # a member whose flags changed is written over, not deleted
    kept = {(member.address, member.port) for member in now}
    return _MemberChanges(
        tuple(member for member in now if member not in known),
        [member for member in before if (member.address, member.port) not in kept],
    )


def _frontends(
    books: Books, work: Work, service: int, entry: Programmed | None, state: State
) -> None:
    old = entry.state.frontends if entry else ()
    for frontend in state.frontends:
        value = _value(service, frontend, state)
        before = books.frontends.get(frontend.key)
        if before != value:
            books.frontends[frontend.key] = value
            # to those who are in the map already nobody else may come by the new backends
            closes = value.filtered and before == value._replace(filtered=False)
            (work.closed_frontends if closes else work.frontends)[frontend.key] = value
            work.gone_frontends.discard(frontend.key)
    kept = {frontend.key for frontend in state.frontends}
    _leave_frontends(books, work, service, (f for f in old if f.key not in kept))


def _value(service: int, frontend: Frontend, state: State) -> FrontendValue:
    filtered = frontend.kind is Kind.LOAD_BALANCER and bool(state.sources)
    return FrontendValue(service, frontend.kind, filtered, frontend.bindable)


def is_led_to(books: Books, entry: Programmed) -> bool:
    """Return whether all frontends of a service port say what they should."""
    return all(
        books.frontends.get(frontend.key) == _value(entry.service, frontend, entry.state)
        for frontend in entry.state.frontends
        if frontend.kind is Kind.LOAD_BALANCER
    )


def _leave_frontends(books: Books, work: Work, service: int, frontends: Iterable[Frontend]) -> None:
    for frontend in frontends:
        # another service may have taken it over in this very round
        owner = books.frontends.get(frontend.key)
        if owner and owner.service == service:
            del books.frontends[frontend.key]
            work.gone_frontends.add(frontend.key)

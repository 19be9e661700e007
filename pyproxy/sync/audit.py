# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel still holds what was written there, and the writes that mend it.

Somebody else may have deleted entries or changed them. What is not as the books say is written
again as it was: the services that still work keep their ids and slots and notice nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.model import ServicePortName
from pyproxy.sync.api import Counts, Datapath, NamedService
from pyproxy.sync.books import Books
from pyproxy.sync.place import renew
from pyproxy.sync.work import Work

_PORTS_A_STEP = 32  # a change waits for a step: a few ms


def audit(books: Books, datapath: Datapath) -> Iterator[Work]:
    """Yield, in steps, the writes that make the kernel equal to the books; mostly none.

    Each is to be made before the next step is asked for. The books may change in between.
    """
    names = list(books.programmed)
    for start in range(0, len(names), _PORTS_A_STEP):
        work = Work()
        for name in names[start : start + _PORTS_A_STEP]:
            if name in books.programmed:
                _compare(books, datapath, work, name)
        yield work
    yield Work(nodes=datapath.lacking_nodes(list(books.nodes.numbers())))
    yield _sources(books, datapath)
    yield _foreign(books, datapath)


def _compare(books: Books, datapath: Datapath, work: Work, name: ServicePortName) -> None:
    """Add to work what a service port lacks in the kernel."""
    service, run, state = books.programmed[name]
    work.names += datapath.lacking_names([(service, NamedService(name, state.created))])
    lacking = datapath.lacking_members([(service, member) for member in state.members])
    if lacking:
        work.members.append((service, tuple(member for _, member in lacking)))
    led_here = [
        (frontend.key, value)
        for frontend in state.frontends
        if (value := books.frontends.get(frontend.key)) and value.service == service
    ]
    work.frontends |= dict(datapath.lacking_frontends(led_here))
    if datapath.published(service) != (run.first, run.generation):
        # nobody reads these slots now
        work.runs.append((service, run))
    elif not datapath.has_run(service, run) and not renew(books, work, name):
        # without room beside them they are written in place, once nobody reads them
        datapath.publish(service, 0, run.generation)
        work.runs.append((service, run))


def _sources(books: Books, datapath: Datapath) -> Work:
    """Return what is wrong with the sources; a look-up there would find a shorter prefix, too."""
    wanted = {
        (entry.service, source)
        for entry in books.programmed.values()
        for source in entry.state.sources
    }
    found = {
        (service, source)
        for service, sources in datapath.read_sources().items()
        for source in sources
    }
    return Work(sources=sorted(wanted - found), gone_sources=sorted(found - wanted))


def _foreign(books: Books, datapath: Datapath) -> Work:
    """Return the removal of what nobody here has written; all is read only if there is any."""
    expected = Counts(
        len(books.frontends),
        books.member_count,
        len(books.programmed),
        len(list(books.nodes.numbers())),
    )
    if datapath.counts() == expected:
        return Work()
    snapshot = datapath.read()
    known = {
        entry.service: {(m.address, m.port) for m in entry.state.members}
        for entry in books.programmed.values()
    }
    numbers = {number for number, _ in books.nodes.numbers()}
    return Work(
        gone_frontends=snapshot.frontends.keys() - books.frontends.keys(),
        gone_members=[
            (service, member)
            for service, members in snapshot.members.items()
            for member in members
            if (member.address, member.port) not in known.get(service, ())
        ],
        gone_names=[service for service in snapshot.names if service not in known],
        gone_nodes=[number for number in snapshot.nodes if number not in numbers],
    )


def maps_of(work: Work) -> dict[str, int]:
    """Return how many entries of which map are written or deleted."""
    found = {
        "frontends": len(work.frontends) + len(work.gone_frontends),
        "services": len(work.runs),
        "members": sum(len(each) for _, each in work.members) + len(work.gone_members),
        "service_names": len(work.names) + len(work.gone_names),
        "node_names": len(work.nodes) + len(work.gone_nodes),
        "sources": len(work.sources) + len(work.gone_sources),
    }
    return {name: number for name, number in found.items() if number}

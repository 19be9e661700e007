# SPDX-License-Identifier: Apache-2.0
"""Maps out of dicts, with the kernel's limits, a log of calls, and failures on demand.

It also plays the reader: after every single write, `check` is called, so that a test can
say what a program would have seen at that moment.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

from pyproxy.errors import KernelError, MapFullError
from pyproxy.model import Family, Prefix, ServicePortName
from pyproxy.sync.api import Counts, FrontendValue, NamedService, Room, Run, Snapshot
from pyproxy.tables import FrontendKey, Member

ROOM = Room(frontends=64, services=64, slots=256, members=256, nodes=16, sources=32)


class FakeDatapath:
    """One family's maps. `fail_at` is the number of the write that fails (from 1, 0: none)."""

    family = Family.IPV4

    def __init__(self, room: Room = ROOM) -> None:
        self.room = room
        self.frontends: dict[FrontendKey, FrontendValue] = {}
        self.services: dict[int, tuple[int, int]] = {}
        self.runs: dict[int, tuple[int, Run]] = {}  # by first slot: service and run
        self.members: dict[tuple[int, bytes, int], Member] = {}
        self.sources: set[tuple[int, Prefix]] = set()
        self.names: dict[int, NamedService] = {}
        self.nodes: dict[int, str] = {}
        self.writes = 0
        self.fail_at = 0
        self.waits = 0
        self.forgotten: list[int] = []
        self.wrong_marks = 0
        self.former: dict[ServicePortName, int] = {}
        self.sockets_left = 0
        self.cannot_end = False
        self.log: list[str] = []
        self.check: Callable[[], None] = lambda: None

    def _write(self, what: str) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            raise KernelError(f"{what}: injected", errno=errno.ENOMEM)
        self.log.append(what)

    def read(self) -> Snapshot:
        """Return everything, as the kernel would."""
        runs = {
            service: self.runs[first][1]
            for service, (first, generation) in self.services.items()
            if first in self.runs
            and self.runs[first][0] == service
            and self.runs[first][1].generation == generation
        }
        members: dict[int, list[Member]] = {}
        for (service, _, _), member in self.members.items():
            members.setdefault(service, []).append(member)
        return Snapshot(
            dict(self.frontends),
            runs,
            dict(self.names),
            {service: tuple(found) for service, found in members.items()},
            dict(self.nodes),
            {
                service: tuple(prefix for mine, prefix in self.sources if mine == service)
                for service, _ in self.sources
            },
            {} if self.names else self.former,
        )

    def counts(self) -> Counts:
        """Return how many entries there are."""
        return Counts(len(self.frontends), len(self.members), len(self.names), len(self.nodes))

    def read_sources(self) -> dict[int, tuple[Prefix, ...]]:
        """Return who may ask which service."""
        return self.read().sources

    def lacking_frontends(
        self, items: Sequence[tuple[FrontendKey, FrontendValue]]
    ) -> list[tuple[FrontendKey, FrontendValue]]:
        """Return those that are not there."""
        return [(key, value) for key, value in items if self.frontends.get(key) != value]

    def lacking_members(self, items: Sequence[tuple[int, Member]]) -> list[tuple[int, Member]]:
        """Return those that are not there."""
        return [(s, m) for s, m in items if self.members.get((s, m.address, m.port)) != m]

    def lacking_names(
        self, items: Sequence[tuple[int, NamedService]]
    ) -> list[tuple[int, NamedService]]:
        """Return those that are not there."""
        return [(service, named) for service, named in items if self.names.get(service) != named]

    def lacking_nodes(self, items: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return those that are not there."""
        return [(number, name) for number, name in items if self.nodes.get(number) != name]

    def published(self, service: int) -> tuple[int, int]:
        """Return what was stored for a service id."""
        return self.services.get(service, (0, 0))

    def has_run(self, service: int, run: Run) -> bool:
        """Return whether a run is as it was written."""
        return self.runs.get(run.first) == (service, run)

    def mend_marks(self) -> int:
        """Return how many marks a test says are wrong; none is after that."""
        wrong, self.wrong_marks = self.wrong_marks, 0
        return wrong

    def end_left(self) -> int:
        """Return how many sockets were ended, or fail as a test says."""
        if self.cannot_end:
            raise OSError(errno.EOPNOTSUPP, "no SOCK_DESTROY")
        return self.sockets_left

    def is_empty(self) -> bool:
        """Whether nothing of any service is left but generations."""
        published = any(first for first, _ in self.services.values())
        kept = (self.frontends, self.members, self.names, self.nodes, self.sources)
        return not published and not any(kept)

    def put_frontends(self, items: Sequence[tuple[FrontendKey, FrontendValue]]) -> None:
        """Write frontends one by one, as the kernel does."""
        for key, value in items:
            self._write("frontend")
            if key not in self.frontends and len(self.frontends) >= self.room.frontends:
                raise MapFullError("frontends", errno=errno.E2BIG)
            self.frontends[key] = value
            self.check()

    def delete_frontends(self, keys: Iterable[FrontendKey]) -> None:
        """Delete frontends."""
        for key in keys:
            self._write("-frontend")
            self.frontends.pop(key, None)
            self.check()

    def put_members(self, items: Sequence[tuple[int, Member]]) -> None:
        """Write members."""
        for service, member in items:
            self._write("member")
            self.members[service, member.address, member.port] = member
            if len(self.members) > self.room.members:
                raise MapFullError("members", errno=errno.E2BIG)
            self.check()

    def delete_members(self, items: Iterable[tuple[int, Member]]) -> None:
        """Delete members."""
        for service, member in items:
            self._write("-member")
            self.members.pop((service, member.address, member.port), None)

    def put_sources(self, items: Sequence[tuple[int, Prefix]]) -> None:
        """Write sources."""
        for item in items:
            self._write("source")
            self.sources.add(item)
            if len(self.sources) > self.room.sources:
                raise MapFullError("sources", errno=errno.E2BIG)
            self.check()

    def delete_sources(self, items: Iterable[tuple[int, Prefix]]) -> None:
        """Delete sources."""
        for item in items:
            self._write("-source")
            self.sources.discard(item)
            self.check()

    def put_names(self, items: Sequence[tuple[int, NamedService]]) -> None:
        """Write names."""
        for service, named in items:
            self._write("name")
            self.names[service] = named

    def delete_names(self, services: Iterable[int]) -> None:
        """Delete names."""
        for service in services:
            self._write("-name")
            self.names.pop(service, None)

    def put_nodes(self, items: Sequence[tuple[int, str]]) -> None:
        """Write node names."""
        for number, name in items:
            self._write("node")
            self.nodes[number] = name

    def delete_nodes(self, nodes: Iterable[int]) -> None:
        """Delete node names."""
        for number in nodes:
            self._write("-node")
            self.nodes.pop(number, None)

    def generation(self, service: int) -> int:
        """Return the last generation of a service id."""
        return self.services.get(service, (0, 0))[1]

    def write_run(self, service: int, run: Run) -> None:
        """Write slots; that they are not in use is the syncer's promise, checked here."""
        self._write("run")
        taken = range(run.first, run.first + 1 + len(run.backends))
        for first, generation in self.services.values():
            if first in self.runs and self.runs[first][1].generation == generation:
                used = range(first, first + 1 + len(self.runs[first][1].backends))
                if set(used) & set(taken):
                    raise AssertionError(f"published slots {used} written over")
        # whatever lay in these slots before is gone
        for first in [f for f in self.runs if f in taken]:
            del self.runs[first]
        self.runs[run.first] = (service, run)
        self.check()

    def publish(self, service: int, first: int, generation: int) -> None:
        """Store where the service's run is."""
        self._write("publish" if first else "-publish")
        self.services[service] = (first, generation)
        self.check()

    def forget_counters(self, services: Iterable[int]) -> None:
        """Note whose counters begin anew; nobody may have them yet."""
        ids = list(services)
        assert not any(self.services.get(each, (0, 0))[0] for each in ids)
        self.forgotten += ids

    def wait_for_readers(self) -> None:
        """Note that the caller waited."""
        self.waits += 1

# SPDX-License-Identifier: Apache-2.0
"""The real maps, with an agent that dies at a chosen write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyproxy.errors import KernelError
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.model import Family, Prefix, Records, ServicePortName
from pyproxy.sync.api import FrontendValue, Header, NamedService, Room, Run, Snapshot
from pyproxy.tables import Backend, BackendFlag, Frontend, FrontendKey, Member, PortPlan


class FaultyDatapath:
    """Makes every write one by one; the write number `fail_at` (from 1, 0: none) fails."""

    def __init__(self, real: KernelDatapath) -> None:
        self._real = real
        self.fail_at = 0
        self.writes = 0

    def _write(self) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            raise KernelError(f"write {self.writes}: injected")

    @property
    def family(self) -> Family:
        """The family whose maps these are."""
        return self._real.family

    @property
    def room(self) -> Room:
        """How many entries each map holds at most."""
        return self._real.room

    def read(self) -> Snapshot:
        """Return everything that is in the maps."""
        return self._real.read()

    def generation(self, service: int) -> int:
        """Return the last generation of a service id."""
        return self._real.generation(service)

    def forget_counters(self, services: Iterable[int]) -> None:
        """Let counters begin anew."""
        self._write()
        self._real.forget_counters(services)

    def wait_for_readers(self) -> None:
        """Wait as the real one does."""
        self._real.wait_for_readers()

    def put_frontends(self, items: Sequence[tuple[FrontendKey, FrontendValue]]) -> None:
        """Write frontends."""
        for item in items:
            self._write()
            self._real.put_frontends([item])

    def delete_frontends(self, keys: Iterable[FrontendKey]) -> None:
        """Delete frontends."""
        for key in keys:
            self._write()
            self._real.delete_frontends([key])

    def put_members(self, items: Sequence[tuple[int, Member]]) -> None:
        """Write members."""
        for item in items:
            self._write()
            self._real.put_members([item])

    def delete_members(self, items: Iterable[tuple[int, Member]]) -> None:
        """Delete members."""
        for item in items:
            self._write()
            self._real.delete_members([item])

    def put_sources(self, items: Sequence[tuple[int, Prefix]]) -> None:
        """Write sources."""
        for item in items:
            self._write()
            self._real.put_sources([item])

    def delete_sources(self, items: Iterable[tuple[int, Prefix]]) -> None:
        """Delete sources."""
        for item in items:
            self._write()
            self._real.delete_sources([item])

    def put_names(self, items: Sequence[tuple[int, NamedService]]) -> None:
        """Write names."""
        for item in items:
            self._write()
            self._real.put_names([item])

    def delete_names(self, services: Iterable[int]) -> None:
        """Delete names."""
        for service in services:
            self._write()
            self._real.delete_names([service])

    def put_nodes(self, items: Sequence[tuple[int, str]]) -> None:
        """Write node names."""
        for item in items:
            self._write()
            self._real.put_nodes([item])

    def delete_nodes(self, nodes: Iterable[int]) -> None:
        """Delete node names."""
        for node in nodes:
            self._write()
            self._real.delete_nodes([node])

    def write_run(self, service: int, run: Run) -> None:
        """Write a run slot by slot: first half of it, then all."""
        self._write()
        half = run._replace(backends=run.backends[: len(run.backends) // 2])
        self._real.write_run(service, half)
        self._write()
        self._real.write_run(service, run)

    def publish(self, service: int, first: int, generation: int) -> None:
        """Publish a run."""
        self._write()
        self._real.publish(service, first, generation)


class Contents(NamedTuple):
    """What the maps hold of a service port, whatever numbers it was given."""

    created: str
    frontends: frozenset[Frontend]
    header: Header
    backends: Records[Backend]
    members: frozenset[Member]


def wanted(plan: PortPlan) -> Contents:
    """Return what the maps are to hold for a plan."""
    header = Header(
        plan.local_count,
        plan.cluster_offset,
        plan.cluster_count,
        plan.affinity_timeout_s,
        int(plan.flags),
    )
    members = frozenset(plan.members)
    return Contents(plan.created, frozenset(plan.frontends), header, plan.backends, members)


def contents(datapath: KernelDatapath) -> dict[ServicePortName, Contents]:
    """Return what the maps hold; raises AssertionError where anything leads nowhere."""
    now = datapath.read()
    led_to = {value.service for value in now.frontends.values()}
    assert now.names.keys() == now.runs.keys() == led_to
    assert now.members.keys() <= led_to
    used = {slot.node for run in now.runs.values() for slot in run.backends} - {0}
    assert now.nodes.keys() == used
    return {named.name: _contents(now, number, named) for number, named in now.names.items()}


def _contents(now: Snapshot, number: int, named: NamedService) -> Contents:
    run = now.runs[number]
    backends = tuple(
        Backend(b.address, b.port, BackendFlag(b.flags), now.nodes.get(b.node, ""))
        for b in run.backends
    )
    frontends = frozenset(
        Frontend(key, value.kind) for key, value in now.frontends.items() if value.service == number
    )
    members = frozenset(now.members.get(number, ()))
    return Contents(named.created, frontends, run.header, backends, members)

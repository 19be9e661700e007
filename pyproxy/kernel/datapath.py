# SPDX-License-Identifier: Apache-2.0
"""The maps of one family in the kernel: what sync.api.Datapath promises."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyproxy.kernel.barrier import wait_for_readers
from pyproxy.kernel.codec import addr_fold, text
from pyproxy.kernel.connected import Asked, ConnectedSockets
from pyproxy.kernel.left import Backend, LeftBackends
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.marks import FrontendMarks
from pyproxy.kernel.names import NAME, former_ids, name_fields, named_by
from pyproxy.kernel.packetpath import FRONTEND_EPOCH, advance
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.strict import ClusterCidrs
from pyproxy.kernel.traffic import Traffic
from pyproxy.model import Address, Family, Prefix, Protocol
from pyproxy.sync.api import (
    Counts,
    FrontendValue,
    Header,
    NamedService,
    Room,
    Run,
    SlotBackend,
    Snapshot,
)
from pyproxy.tables import BackendFlag, FrontendKey, Kind, Member

_FRONTEND_KEY = ("addr", "port", "proto")
_FRONTEND = ("service", "addr_fold", "port", "proto", "kind", "flags")
_SOURCE_KEY = ("length", "service", "addr")
_SERVICE_BITS = 32  # of a key of sources, before the address

_HEADER = (
    "service",
    "generation",
    "header.local_count",
    "header.cluster_offset",
    "header.cluster_count",
    "header.affinity_s",
    "header.flags",
)
_BACKEND = (
    "service",
    "generation",
    "backend.addr",
    "backend.port",
    "backend.flags",
    "backend.node",
)
_MEMBER_KEY = ("service", "endpoint.addr", "endpoint.port")


class FrontendFlag(enum.IntFlag):
    """What holds for a frontend alone: enum frontend_flag of bpf/types.h."""

    FILTERED = 1
    BINDABLE = 2


class KernelDatapath:
    """The pinned maps of one family."""

    def __init__(self, pins: Pins, *, write: bool = True) -> None:
        maps = pins.maps
        self._pins, self._writes = pins, write
        self.family: Family = pins.family
        self.frontends = HashMap(str(maps / "frontends"), _FRONTEND_KEY, _FRONTEND)
        self.members = HashMap(str(maps / "members"), _MEMBER_KEY, ("flags",))
        self.sources = HashMap(str(maps / "sources"), _SOURCE_KEY, ("",))
        self.names = HashMap(str(maps / "service_names"), ("",), NAME)
        self.nodes = HashMap(str(maps / "node_names"), ("",), ("",))
        self.services = ArrayMap(str(maps / "services"), write=write)
        self.slots = ArrayMap(str(maps / "slots"), write=write)
        self.marks = ArrayMap(str(maps / "marks"), write=write)
        self.settings = ArrayMap(str(maps / "settings"), write=write)
        self._frontend_marks = FrontendMarks(self.marks, self.settings)
        self._sockets = ConnectedSockets(pins.shared, pins.family)
        self._left = LeftBackends(self._frontend_marks, self._sockets.may_have)
        self._cidrs = HashMap(str(maps / "cluster_cidrs"), ("length", "addr"), ("",))
        self._cluster = ClusterCidrs(self._cidrs, self.settings, self._frontend_marks)
        self._traffic = Traffic(pins, write=write)
        self._marked: dict[FrontendKey, FrontendValue] = {}
        self._service = self.services.codec(("first_slot", "generation"))
        self._header = self.slots.codec(_HEADER)
        self._backend = self.slots.codec(_BACKEND)

    @property
    def room(self) -> Room:
        """How many entries each map holds at most."""
        return Room(
            self.frontends.info.max_entries,
            self.services.max,
            self.slots.max,
            self.members.info.max_entries,
            self.nodes.info.max_entries,
            self.sources.info.max_entries,
        )

    def close(self) -> None:
        """Close all maps."""
        for each in (
            self.frontends, self.members, self.sources, self.names, self.nodes,
            self.services, self.slots, self.marks, self.settings, self._cidrs, self._sockets,
            self._traffic,
        ):  # fmt: skip
            each.close()

    def read(self) -> Snapshot:
        """Return everything that is in the maps; runs whose slots are not theirs are left out."""
        frontends = self.read_frontends()
        if self._writes:
            self._marked = {key: to._replace(service=0) for key, to in frontends.items()}
            self._frontend_marks.reset(self._marked.items())
            self._cluster.reset((key, to.kind) for key, to in self._marked.items())
        names = self.read_names()
        runs = {service: run for service in names if (run := self._run(service))}
        members: dict[int, list[Member]] = {}
        for (service, address, port), (flags,) in self.members.items():
            members.setdefault(service, []).append(Member(address, port, BackendFlag(flags)))
        if self._writes:
            asked = {each for _, each in self._sockets.asked()}
            self._left.reset(self._got(each) for each in asked if not self._is_member(each))
        return Snapshot(
            frontends,
            runs,
            names,
            {service: tuple(found) for service, found in members.items()},
            {number: text(name) for (number,), (name,) in self.nodes.items()},
            self.read_sources(),
            former_ids(self._pins) if self._writes and not names else {},
        )

    def read_frontends(self) -> dict[FrontendKey, FrontendValue]:
        """Return what each frontend leads to."""
        return {
            FrontendKey(*key): _frontend_value(value[0], value[4], value[5])
            for key, value in self.frontends.items()
        }

    def read_sources(self) -> dict[int, tuple[Prefix, ...]]:
        """Return who may ask which service."""
        found: dict[int, list[Prefix]] = {}
        for length, service, address in (key for key, _ in self.sources.items()):
            found.setdefault(service, []).append(Prefix(address, length - _SERVICE_BITS))
        return {service: tuple(sources) for service, sources in found.items()}

    def read_names(self) -> dict[int, NamedService]:
        """Return who the service ids are."""
        return {number: named_by(value) for (number,), value in self.names.items()}

    def slots_used(self) -> int:
        """Return how many slots the published runs take."""
        headers = (self._header_of(service) for service in self.read_names())
        return sum(1 + found[2].backend_count for found in headers if found)

    def _header_of(self, service: int) -> tuple[int, int, Header] | None:
        """Return first slot, generation and header of a published run, None if there is none."""
        first, generation = self._service.unpack(self.services.read(service))
        if not first or first >= self.slots.max:
            return None
        owner, age, *counts = self._header.unpack(self.slots.read(first))
        header = Header(*counts)
        if (owner, age) != (service, generation) or first + header.backend_count >= self.slots.max:
            return None
        return first, generation, header

    def _run(self, service: int) -> Run | None:
        found = self._header_of(service)
        if found is None:
            return None
        first, generation, header = found
        raw = self.slots.read(first + 1, header.backend_count)
        backends = []
        for offset in range(0, len(raw), self.slots.stride):
            owner, age, *rest = self._backend.unpack(raw, offset)
            if (owner, age) != (service, generation):
                return None
            backends.append(SlotBackend(*rest))
        return Run(first, generation, header, tuple(backends))

    def counts(self) -> Counts:
        """Return how many entries the maps have now."""
        return Counts(*map(len, (self.frontends, self.members, self.names, self.nodes)))

    def lacking_frontends(
        self, items: Sequence[tuple[FrontendKey, FrontendValue]]
    ) -> list[tuple[FrontendKey, FrontendValue]]:
        """Return those that are not in the map just as put_frontends() writes them."""
        return [item for item in items if not self.frontends.has(*_frontend_item(*item))]

    def lacking_members(self, items: Sequence[tuple[int, Member]]) -> list[tuple[int, Member]]:
        """Return those that are not in the map just as put_members() writes them."""
        return [item for item in items if not self.members.has(*_member_item(*item))]

    def lacking_names(
        self, items: Sequence[tuple[int, NamedService]]
    ) -> list[tuple[int, NamedService]]:
        """Return those that are not in the map just as put_names() writes them."""
        return [item for item in items if not self.names.has(*_name_item(*item))]

    def lacking_nodes(self, items: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return those that are not in the map just as put_nodes() writes them."""
        return [item for item in items if not self.nodes.has(*_node_item(*item))]

    def mend_marks(self) -> int:
        """Mark all frontends again, and no others; return how many marks were wrong."""
        return self._frontend_marks.mend() + self._cluster.mend()

    def put_frontends(self, items: Sequence[tuple[FrontendKey, FrontendValue]]) -> None:
        """Write frontends; packets to them are looked at from before that on."""
        added, replaced = [], []
        for key, to in items:
            shape = to._replace(service=0)
            before = self._marked.get(key)
            if before != shape:
                self._frontend_marks.add(key, shape)
                added.append((key, to.kind))
                if before is not None:
                    self._frontend_marks.remove(key)
                    replaced.append((key, before.kind))
                self._marked[key] = shape
        self.frontends.update([_frontend_item(*item) for item in items])
        advance(self.settings, FRONTEND_EPOCH)
        self._cluster.add(added)
        self._cluster.remove(replaced)

    def restrict(self, cidrs: tuple[Prefix, ...] | None) -> None:
        """Be strict, as nftables mode is, with these ServiceCIDRs and all ClusterIPs; None: not."""
        self._cluster.restrict(cidrs)

    def is_cluster_ip(self, address: Address) -> bool:
        """Return whether some service has an address as ClusterIP."""
        return self._cluster.is_cluster_ip(address)

    def delete_frontends(self, keys: Iterable[FrontendKey]) -> None:
        """Delete frontends."""
        gone = list(keys)
        self.frontends.delete(gone)
        advance(self.settings, FRONTEND_EPOCH)
        forgotten = []
        for key in gone:
            shape = self._marked.pop(key, None)
            if shape is not None:
                self._frontend_marks.remove(key)
                forgotten.append((key, shape.kind))
        self._cluster.remove(forgotten)

    def put_members(self, items: Sequence[tuple[int, Member]]) -> None:
        """Write members."""
        self.members.update([_member_item(*item) for item in items])
        if self._left:
            self._left.rejoin(self._datagrams(items))

    def delete_members(self, items: Iterable[tuple[int, Member]]) -> None:
        """Delete members; packets to those of UDP are looked at from before that on."""
        gone = list(items)
        self._left.leave(self._datagrams(gone))
        self.members.delete((service, m.address, m.port) for service, m in gone)

    def _datagrams(self, items: Iterable[tuple[int, Member]]) -> Iterator[Backend]:
        """Give the members of UDP services."""
        protocols: dict[int, int] = {}
        for service, member in items:
            if service not in protocols:
                named = self.names.get((service,))
                protocols[service] = named[-1] if named else 0
            if protocols[service] == Protocol.UDP:
                yield service, member.address, member.port

    def _got(self, asked: Asked) -> Backend:
        """Return what a socket has by what it asked for; of service 0 if that is no frontend."""
        address, port = asked.service
        for each in (address, bytes(len(address))):
            found = self.frontends.get((each, port, int(Protocol.UDP)))
            if found is not None:
                return found[0], *asked.backend
        return 0, *asked.backend

    def _is_member(self, asked: Asked) -> bool:
        """Return whether what a socket has is a backend of what it asked for."""
        return self.members.get(self._got(asked)) is not None

    def end_left(self) -> int:
        """End this network namespace's UDP sockets to backends that left; return how many.

        Nothing is asked when a connected socket sends, and only what comes in from other namespaces
        can be led elsewhere (rule 20). Raises OSError where the kernel cannot.
        """
        return self._sockets.end(self._left.take_fresh(), self._is_member)

    def put_sources(self, items: Sequence[tuple[int, Prefix]]) -> None:
        """Write who may ask services."""
        self.sources.update([(_source_key(*item), (1,)) for item in items])

    def delete_sources(self, items: Iterable[tuple[int, Prefix]]) -> None:
        """Delete who may ask services."""
        self.sources.delete(_source_key(*item) for item in items)

    def put_names(self, items: Sequence[tuple[int, NamedService]]) -> None:
        """Write who service ids are."""
        self.names.update([_name_item(*item) for item in items])

    def delete_names(self, services: Iterable[int]) -> None:
        """Forget who service ids are."""
        self.names.delete((service,) for service in services)

    def put_nodes(self, items: Sequence[tuple[int, str]]) -> None:
        """Write node names."""
        self.nodes.update([_node_item(*item) for item in items])

    def delete_nodes(self, nodes: Iterable[int]) -> None:
        """Forget node names."""
        self.nodes.delete((number,) for number in nodes)

    def write_run(self, service: int, run: Run) -> None:
        """Write a header and its backends to slots that nothing reads."""
        self.slots.write(run.first, self._packed(service, run))

    def has_run(self, service: int, run: Run) -> bool:
        """Return whether the slots hold a run just as write_run() writes it."""
        return self.slots.read(run.first, 1 + len(run.backends)) == self._packed(service, run)

    def _packed(self, service: int, run: Run) -> bytes:
        parts = [self._header.pack(service, run.generation, *run.header)]
        pack = self._backend.pack
        parts += [
            pack(service, run.generation, b.address, b.port, b.flags, b.node) for b in run.backends
        ]
        return b"".join(parts)

    def generation(self, service: int) -> int:
        """Return the last generation of a service id."""
        return self.published(service)[1]

    def published(self, service: int) -> tuple[int, int]:
        """Return first slot and generation of the run that a service has, as publish() stores."""
        first, generation = self._service.unpack(self.services.read(service))
        return first, generation

    def publish(self, service: int, first: int, generation: int) -> None:
        """Make a run the service's, in one aligned 8-byte store."""
        word = self._service.pack(first, generation)
        self.services.store(service, int.from_bytes(word, sys.byteorder))

    def forget_counters(self, services: Iterable[int]) -> None:
        """Let the counters of service ids begin with zeros."""
        self._traffic.forget(services)

    def wait_for_readers(self) -> None:
        """Return when no program can still be reading what was replaced before the call."""
        wait_for_readers()


_Item = tuple[tuple[Any, ...], tuple[Any, ...]]  # key and value, as HashMap takes them


def _frontend_item(key: FrontendKey, to: FrontendValue) -> _Item:
    flags = to.filtered * FrontendFlag.FILTERED | to.bindable * FrontendFlag.BINDABLE
    return key, (to.service, addr_fold(key.address), *key[1:], to.kind, flags)


def _member_item(service: int, member: Member) -> _Item:
    return (service, member.address, member.port), (int(member.flags),)


def _name_item(service: int, named: NamedService) -> _Item:
    return (service,), name_fields(named)


def _node_item(number: int, name: str) -> _Item:
    return (number,), (name.encode(),)


def _source_key(service: int, source: Prefix) -> tuple[int, int, bytes]:
    return source.length + _SERVICE_BITS, service, source.address


def _frontend_value(service: int, kind: int, flags: int) -> FrontendValue:
    """Return a frontend's value; a kind that only a later version knows leads to no service."""
    try:
        found = Kind(kind)
    except ValueError:
        return FrontendValue(0, Kind.CLUSTER_IP)
    filtered, bindable = FrontendFlag.FILTERED & flags, FrontendFlag.BINDABLE & flags
    return FrontendValue(service, found, bool(filtered), bool(bindable))

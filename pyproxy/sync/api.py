# SPDX-License-Identifier: Apache-2.0
"""What sync asks of the kernel, for one family; kernel/datapath.py is the real thing.

Ids, slot numbers and generations start at 1. Every write raises KernelError on failure;
MapFullError says that a map has no room, and then none or some of a batch was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pyproxy.model import Address, Family, Prefix, Records, ServicePortName
from pyproxy.tables import FrontendKey, Kind, Member


class FrontendValue(NamedTuple):
    """What a frontend leads to."""

    service: int
    kind: Kind
    filtered: bool = False  # only for those in `sources` (parity A10.1)
    bindable: bool = False  # as tables.Frontend has it


class SlotBackend(NamedTuple):
    """A backend as a slot holds it: flags as in tables.BackendFlag, node a key of node_names."""

    address: Address
    port: int
    flags: int
    node: int


class Header(NamedTuple):
    """A service's header; the counts are explained by tables.PortPlan."""

    local_count: int
    cluster_offset: int
    cluster_count: int
    affinity_s: int
    flags: int

    @property
    def backend_count(self) -> int:
        """How many slots follow the header."""
        return max(self.local_count, self.cluster_offset + self.cluster_count)


class Run(NamedTuple):
    """A service's published slots: its header at `first`, then its backends."""

    first: int
    generation: int
    header: Header
    backends: Records[SlotBackend]


class NamedService(NamedTuple):
    """Who a service id is."""

    name: ServicePortName
    created: str


class Snapshot(NamedTuple):
    """Everything that is in the maps, by service id or node number.

    `former` are the ids that connections bear which are older than the maps (another layout's).
    """

    frontends: dict[FrontendKey, FrontendValue]
    runs: dict[int, Run]
    names: dict[int, NamedService]
    members: dict[int, tuple[Member, ...]]
    nodes: dict[int, str]
    sources: dict[int, tuple[Prefix, ...]]
    former: Mapping[ServicePortName, int] = MappingProxyType({})


class Counts(NamedTuple):
    """How many entries the maps have now."""

    frontends: int
    members: int
    names: int
    nodes: int


class Room(NamedTuple):
    """How many entries each map holds at most."""

    frontends: int
    services: int
    slots: int
    members: int
    nodes: int
    sources: int


class Datapath(Protocol):
    """The maps of one family."""

    @property
    def family(self) -> Family:
        """The family whose maps these are."""
        ...

    @property
    def room(self) -> Room:
        """How many entries each map holds at most."""
        ...

    def read(self) -> Snapshot:
        """Return everything that is in the maps; runs whose slots are not theirs are left out."""
        ...

    def counts(self) -> Counts:
        """Return how many entries the maps have now."""
        ...

    def read_sources(self) -> dict[int, tuple[Prefix, ...]]:
        """Return who may ask which service."""
        ...

    def lacking_frontends(
        self, items: Sequence[tuple[FrontendKey, FrontendValue]]
    ) -> list[tuple[FrontendKey, FrontendValue]]:
        """Return those that are not in the map just as put_frontends() writes them."""
        ...

    def lacking_members(self, items: Sequence[tuple[int, Member]]) -> list[tuple[int, Member]]:
        """Return those that are not in the map just as put_members() writes them."""
        ...

    def lacking_names(
        self, items: Sequence[tuple[int, NamedService]]
    ) -> list[tuple[int, NamedService]]:
        """Return those that are not in the map just as put_names() writes them."""
        ...

    def lacking_nodes(self, items: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return those that are not in the map just as put_nodes() writes them."""
        ...

    def published(self, service: int) -> tuple[int, int]:
        """Return first slot and generation of the run that a service has, as publish() stores."""
        ...

    def has_run(self, service: int, run: Run) -> bool:
        """Return whether the slots hold a run just as write_run() writes it."""
        ...

    def mend_marks(self) -> int:
        """Mark all frontends again, and no others; return how many marks were wrong."""
        ...

    def put_frontends(self, items: Sequence[tuple[FrontendKey, FrontendValue]]) -> None:
        """Write frontends, new ones and such that lead elsewhere now."""
        ...

    def delete_frontends(self, keys: Iterable[FrontendKey]) -> None:
        """Delete frontends."""
        ...

    def put_members(self, items: Sequence[tuple[int, Member]]) -> None:
        """Write members of services."""
        ...

    def delete_members(self, items: Iterable[tuple[int, Member]]) -> None:
        """Delete members of services."""
        ...

    def put_sources(self, items: Sequence[tuple[int, Prefix]]) -> None:
        """Write who may ask services whose frontends are filtered."""
        ...

    def delete_sources(self, items: Iterable[tuple[int, Prefix]]) -> None:
        """Delete who may ask services."""
        ...

    def put_names(self, items: Sequence[tuple[int, NamedService]]) -> None:
        """Write who service ids are."""
        ...

    def delete_names(self, services: Iterable[int]) -> None:
        """Forget who service ids are."""
        ...

    def put_nodes(self, items: Sequence[tuple[int, str]]) -> None:
        """Write node names."""
        ...

    def delete_nodes(self, nodes: Iterable[int]) -> None:
        """Forget node names."""
        ...

    def generation(self, service: int) -> int:
        """Return the last generation of a service id, published or withdrawn; 0 if never used."""
        ...

    def write_run(self, service: int, run: Run) -> None:
        """Write a header and its backends to slots that nothing reads."""
        ...

    def publish(self, service: int, first: int, generation: int) -> None:
        """Make a run the service's, in one store; first 0 withdraws the service."""
        ...

    def forget_counters(self, services: Iterable[int]) -> None:
        """Let the counters of service ids begin with zeros, before they are somebody else's."""
        ...

    def wait_for_readers(self) -> None:
        """Return when no program can still be reading what was replaced before the call."""
        ...

# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes says, reduced to what planning needs.

`kube` builds these records, `plan` reads them. They are immutable and compare by value, so
"nothing changed" is an equality. Addresses are bytes in network order (4 or 16 of them).
"""

from __future__ import annotations

import enum
import ipaddress
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple, SupportsIndex, TypeAlias, TypeVar

Address: TypeAlias = bytes
V4_MAPPED: Address = bytes(10) + b"\xff\xff"  # what comes before an IPv4 address (RFC 4291 2.5.5.2)
_Record = TypeVar("_Record", bound=tuple[Any, ...])
_Record_co = TypeVar("_Record_co", bound=tuple[Any, ...], covariant=True)
_Columns: TypeAlias = tuple[tuple[Any, ...], ...]


class Family(enum.IntEnum):
    """An IP family. Each has its own maps and its own plan (parity A3.2)."""

    IPV4 = 4
    IPV6 = 6

    @property
    def label(self) -> str:
        """Kubernetes' name of the family: IPv4 or IPv6."""
        return f"IPv{self.value}"

    @property
    def address_bytes(self) -> int:
        """Length of an address in bytes."""
        return 4 if self is Family.IPV4 else 16


def family_of(address: Address) -> Family:
    """Return the family of an address in network order."""
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def address_text(address: Address) -> str:
    """Return an address in network order as people write it (RFC 5952 for IPv6).

    inet_ntop is not it: it writes ::0.1.0.128 for ::1:80.
    """
    return str(ipaddress.ip_address(address))


def endpoint_text(address: Address, port: int) -> str:
    """Return address and port as "10.0.0.1:80" or "[fd00::1]:80"."""
    text = address_text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


class Protocol(enum.IntEnum):
    """A service port's protocol by its IANA number, as it stands in an IP header."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Prefix(NamedTuple):
    """A CIDR: the network address with the host bits cleared, and its length in bits."""

    address: Address
    length: int


class ObjectName(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """Identity of a service port (parity A1.5); kube-proxy's type of the same name."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{port}/{self.protocol.name}"


class ServicePort(NamedTuple):
    """One entry of spec.ports; `node_port` is 0 where there is none.

    `target_port` is 0 where it is named, or the same as `port`.
    """

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    target_port: int = 0


class Service(NamedTuple):
    """A Service that is proxied: headless and ExternalName ones never get here (parity A1.4).

    `created` is metadata.creationTimestamp as text (RFC 3339 in UTC sorts by age; "" is
    youngest). `load_balancer_ips` are the ingress addresses of ipMode VIP (A2.3).
    `source_ranges` are all that parse, of both families. `external_policy_local` is already
    narrowed to the types for which it counts (A4.5). `affinity_timeout_s` is 0 for None.
    `uid` is kept of Services that Events may be about, 0.1 KB each: those with an SCTP port or a
    health-check node port.
    """

    name: ObjectName
    created: str
    type: str
    cluster_ips: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Prefix, ...] = ()
    internal_policy_local: bool = False
    external_policy_local: bool = False
    affinity_timeout_s: int = 0
    health_check_node_port: int = 0
    uid: str = ""


class Records(typing.Protocol[_Record_co]):
    """Records in an order, never changed: a tuple of them, or Packed, which compare as equal."""

    __slots__ = ()

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __iter__(self) -> Iterator[_Record_co]:
        """Yield one after the other."""
        ...

    @typing.overload
    def __getitem__(self, place: SupportsIndex, /) -> _Record_co: ...
    @typing.overload
    def __getitem__(self, place: slice, /) -> tuple[_Record_co, ...]: ...


class Packed(Records[_Record]):
    """Records in a tenth of a tuple's memory: each is made anew whenever it is asked for.

    `make` is their NamedTuple; its first field is an address, and the addresses are of one
    family. An agent holds every endpoint of the cluster, and needs those of few at a time.
    """

    __slots__ = ("_addresses", "_columns", "_length", "_make")

    def __init__(self, make: Callable[..., _Record], records: Iterable[_Record]) -> None:
        addresses, *columns = tuple(zip(*records, strict=True)) or ((),)
        if len(set(map(len, addresses))) > 1:
            raise ValueError("addresses of two families cannot be packed together")
        self._make = make
        self._length = len(addresses)
        self._addresses = b"".join(addresses)
        self._columns = _shared(make, tuple(map(_narrowed, columns)))

    def __len__(self) -> int:
        """Return how many there are."""
        return self._length

    def __iter__(self) -> Iterator[_Record]:
        """Yield one after the other."""
        columns = [repeat(each[0]) if len(each) == 1 else each for each in self._columns]
        return map(self._make, self._each_address(), *columns)

    @typing.overload
    def __getitem__(self, place: SupportsIndex, /) -> _Record: ...
    @typing.overload
    def __getitem__(self, place: slice, /) -> tuple[_Record, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> _Record | tuple[_Record, ...]:
        """Return one of them, or a tuple of some."""
        return tuple(self)[place]

    def __eq__(self, other: object) -> bool:
        """Whether the other are the same records in the same order."""
        if isinstance(other, Packed):
            # no two sets of columns stand for the same records
            return (self._length, self._addresses, self._columns) == (
                other._length,
                other._addresses,
                other._columns,
            )
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        """Return the hash of a tuple of them."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """Return them as a tuple is shown."""
        return repr(tuple(self))

    def _each_address(self) -> list[Address]:
        joined = self._addresses
        width = len(joined) // self._length if self._length else 1
        return [joined[start : start + width] for start in range(0, len(joined), width)]


def _narrowed(column: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a column as a single value where all are the same."""
    return column[:1] if column.count(column[0]) == len(column) else column


@lru_cache(maxsize=1024)
def _shared(make: object, columns: _Columns) -> _Columns:  # noqa: ARG001 - part of the key
    """Return one and the same object for equal columns of one kind, which most services have."""
    return columns


class SlicePort(NamedTuple):
    """One entry of an EndpointSlice's ports that has a name, a protocol and a number (A1.8)."""

    name: str
    protocol: Protocol
    port: int


class Endpoint(NamedTuple):
    """One endpoint of a slice; the conditions' nil values are filled in (A1.10)."""

    address: Address
    node_name: str
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()


class EndpointSlice(NamedTuple):
    """An EndpointSlice of an IP family that belongs to a service (A1.6, A1.9)."""

    name: ObjectName
    service: ObjectName
    family: Family
    ports: tuple[SlicePort, ...]
    endpoints: Records[Endpoint]


class Node(NamedTuple):
    """What is used of a Node; addresses are InternalIPs first, then ExternalIPs (A16.2)."""

    name: str
    addresses: tuple[Address, ...] = ()
    zone: str = ""
    pod_cidrs: tuple[Prefix, ...] = ()
    taints: frozenset[str] = frozenset()
    deleting: bool = False


class ServiceCIDR(NamedTuple):
    """Where ClusterIPs may come from: nftables mode drops what is for nobody there (A8.7)."""

    name: str
    cidrs: tuple[Prefix, ...] = ()

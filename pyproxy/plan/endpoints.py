# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a service port may use on this node (parity A1.6-A1.12, A4, A5)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.model import Address, Endpoint, EndpointSlice, Family, ServicePort
from pyproxy.plan.options import Options
from pyproxy.tables import Backend, BackendFlag

# Operators of IntFlag cost a microsecond each; a plan makes a flag for every endpoint.
_FLAGS = tuple(BackendFlag(value) for value in range(16))


class Candidate(NamedTuple):
    """An endpoint of a service port, and the backend that it makes."""

    backend: Backend
    endpoint: Endpoint


class Categories(NamedTuple):
    """What `categorize_endpoints` finds; each tuple is sorted as its input was.

    `cluster` and `local` are empty where no traffic of the port can use them.
    """

    cluster: tuple[Candidate, ...]
    local: tuple[Candidate, ...]
    has_endpoints: bool


def merge_endpoints(
    port: ServicePort, slices: Iterable[EndpointSlice], family: Family, options: Options
) -> list[Candidate]:
    """Return the endpoints that all slices of a service have for a port, sorted by "ip:port".

    `slices` come in an order that doesn't depend on the order of events: of two entries with
    one address and port, a later one that isn't terminating wins (parity A1.12).
    """
    found: dict[tuple[Address, int], Endpoint] = {}
    for piece in slices:
        if piece.family is family:
            for number in _numbers(piece, port):
                _add_endpoints(found, piece, number)
    return [
        Candidate(_backend(endpoint, key[1], options), endpoint)
        for key, endpoint in sorted(found.items(), key=_by_text)
    ]


def _numbers(piece: EndpointSlice, port: ServicePort) -> Iterator[int]:
    """Yield the port numbers that a slice has under a port's name and protocol (A1.7)."""
    for slice_port in piece.ports:
        if slice_port.name == port.name and slice_port.protocol is port.protocol:
            yield slice_port.port


def _add_endpoints(
    found: dict[tuple[Address, int], Endpoint], piece: EndpointSlice, number: int
) -> None:
    for endpoint in piece.endpoints:
        key = (endpoint.address, number)
        if not endpoint.terminating or key not in found:
            found[key] = endpoint


def _by_text(item: tuple[tuple[Address, int], Endpoint]) -> str:
    address, port = item[0]
    if len(address) == 4:
        return f"{socket.inet_ntoa(address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


def _backend(endpoint: Endpoint, port: int, options: Options) -> Backend:
    """Return an endpoint as a backend; local by the node's name alone (parity A1.11)."""
    is_local = endpoint.node_name == options.node_name != ""
    flags = _FLAGS[
        is_local | endpoint.ready << 1 | endpoint.serving << 2 | endpoint.terminating << 3
    ]
    return Backend(endpoint.address, port, flags, endpoint.node_name)


def categorize_endpoints(
    candidates: list[Candidate], options: Options, *, uses_cluster: bool, uses_local: bool
) -> Categories:
    """Sort out what a Cluster and what a Local traffic policy may use; kube-proxy's name.

    Whether terminating endpoints stand in is decided for each set apart (parity A4.1, A4.2).
    """
    ready = [c for c in candidates if c.endpoint.ready]
    usable = ready or [c for c in candidates if _stands_in(c.endpoint)]
    cluster = _filter_by_hints(ready, options) or usable if uses_cluster else []
    local = _local_endpoints(candidates) if uses_local else []
    return Categories(tuple(cluster), tuple(local), has_endpoints=bool(usable))


def _stands_in(endpoint: Endpoint) -> bool:
    """Whether an endpoint is used when no ready one is there (parity A4.1, A4.3)."""
    return endpoint.serving and endpoint.terminating and not endpoint.ready


def _local_endpoints(candidates: list[Candidate]) -> list[Candidate]:
    """Return the ready endpoints of this node, else its terminating ones (A4.2, A5.4)."""
    local = [c for c in candidates if c.backend.flags.value & 1]
    ready = [c for c in local if c.endpoint.ready]
    return ready or [c for c in local if _stands_in(c.endpoint)]


def _filter_by_hints(ready: list[Candidate], options: Options) -> list[Candidate]:
    """Narrow ready endpoints by node hints, else by zone hints, else not at all (A5.2).

    All or nothing: one endpoint without a hint switches that kind of hint off.
    """
    for_node = [c for c in ready if options.node_name in c.endpoint.node_hints]
    if for_node and all(c.endpoint.node_hints for c in ready):
        return for_node
    if not options.zone:  # A5.5
        return ready
    for_zone = [c for c in ready if options.zone in c.endpoint.zone_hints]
    if for_zone and all(c.endpoint.zone_hints for c in ready):
        return for_zone
    return ready

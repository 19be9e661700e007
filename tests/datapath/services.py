# SPDX-License-Identifier: Apache-2.0
"""Plans for services of the datapath tests: valid by default, keywords override."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat

from pyproxy.model import Family, Protocol, ServicePortName
from pyproxy.tables import (
    Backend,
    BackendFlag,
    Frontend,
    FrontendKey,
    Kind,
    Member,
    PortPlan,
    ServiceFlag,
)
from tests.datapath.flavours import PORT, SERVICE_PORT, backend_address, service_address

USABLE = BackendFlag.READY | BackendFlag.SERVING
LEAVING = BackendFlag.SERVING | BackendFlag.TERMINATING
DROPS = ServiceFlag.INTERNAL_LOCAL | ServiceFlag.HAS_ENDPOINTS


def service_name(number: int, protocol: Protocol) -> ServicePortName:
    """Return the name of the service port with this number."""
    return ServicePortName("default", f"service-{number}", "main", protocol)


def service(
    family: Family,
    number: int = 1,
    backends: Sequence[int] = (1,),
    *,
    protocol: Protocol = Protocol.TCP,
    port: int = PORT,
    local: int = 0,
    flags: ServiceFlag = ServiceFlag.HAS_ENDPOINTS,
    leaving: Iterable[int] = (),
) -> PortPlan:
    """Return a service at its address, port 80, with backends by number.

    The first `local` of the backends are on this node. `leaving` are further members that get
    no new connections: terminating ones that still serve.
    """
    flags_of = chain(repeat(USABLE | BackendFlag.LOCAL, local), repeat(USABLE))
    found = tuple(
        Backend(backend_address(family, n), port, next(flags_of), f"node-{n % 2}") for n in backends
    )
    members = list(members_of(found, local, 0, len(found)))
    members += [Member(backend_address(family, n), port, LEAVING) for n in leaving]
    key = FrontendKey(service_address(family, number), SERVICE_PORT, int(protocol))
    return PortPlan(
        name=service_name(number, protocol),
        family=family,
        created=f"2026-01-01T00:00:{number:02}Z",
        frontends=(Frontend(key, Kind.CLUSTER_IP),),
        backends=found,
        local_count=local,
        cluster_offset=0,
        cluster_count=len(found),
        flags=flags | (ServiceFlag.HAS_LOCAL if local else 0),
        affinity_timeout_s=0,
        members=tuple(sorted(members)),
    )


def members_of(
    backends: Sequence[Backend], local: int, offset: int, count: int
) -> Iterator[Member]:
    """Give the members that backends are, with the sets that they are in."""
    for n, each in enumerate(backends):
        flags = each.flags
        if n < local:
            flags |= BackendFlag.IN_LOCAL
        if offset <= n < offset + count:
            flags |= BackendFlag.IN_CLUSTER
        yield Member(each.address, each.port, flags)


def refusing(family: Family, number: int = 1, protocol: Protocol = Protocol.TCP) -> PortPlan:
    """Return a service without endpoints (parity A8.1)."""
    return service(family, number, (), protocol=protocol, flags=ServiceFlag(0))


def dropping(
    family: Family, number: int = 1, protocol: Protocol = Protocol.TCP, local: int = 0
) -> PortPlan:
    """Return a service with internalTrafficPolicy Local; without local endpoints it drops."""
    return service(family, number, (1, 2), protocol=protocol, flags=DROPS, local=local)

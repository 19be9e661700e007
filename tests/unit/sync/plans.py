# SPDX-License-Identifier: Apache-2.0
"""Plans for tests: valid by default, keywords override."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyproxy.model import Family, Prefix, Protocol, ServicePortName
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

USABLE = BackendFlag.READY | BackendFlag.SERVING


def address(number: int) -> bytes:
    """Return 10.0.x.y for a number."""
    return bytes((10, 0, number >> 8, number & 255))


def backend(number: int, *, node: str = "node1") -> Backend:
    """Return a ready backend."""
    return Backend(address(number), 8080, USABLE, node)


def plan(
    name: str = "a",
    *,
    vips: Sequence[int] = (1,),
    backends: Sequence[Backend] = (backend(1),),
    flags: ServiceFlag = ServiceFlag.HAS_ENDPOINTS,
    created: str = "",
    leaving: Sequence[Backend] = (),
    balanced: Sequence[int] = (),
    sources: Iterable[int] = (),
) -> PortPlan:
    """Return a plan whose ClusterIPs are 10.96.0.<vip>:80, all backends usable cluster-wide.

    Those `leaving` are members that get no new connections. The load balancer's addresses are
    10.97.0.<balanced>:80, only for `sources`, if there are any.
    """
    port = ServicePortName("default", name, "http", Protocol.TCP)
    kinds = {Kind.CLUSTER_IP: (96, vips), Kind.LOAD_BALANCER: (97, balanced)}
    return PortPlan(
        port,
        Family.IPV4,
        created,
        tuple(
            Frontend(FrontendKey(bytes((10, net, 0, number)), 80, 6), kind)
            for kind, (net, numbers) in kinds.items()
            for number in numbers
        ),
        tuple(backends),
        0,
        0,
        len(backends),
        flags,
        0,
        tuple(sorted(Member(b.address, b.port, b.flags) for b in (*backends, *leaving))),
        tuple(Prefix(address(number), 32) for number in sorted(sources)),
    )

# SPDX-License-Identifier: Apache-2.0
"""Plans for tests: valid by default, keywords override."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> PortPlan:
    """Return a plan whose ClusterIPs are 10.96.0.<vip>:80, all backends usable cluster-wide.

    Those `leaving` are members that get no new connections.
    """
    port = ServicePortName("default", name, "http", Protocol.TCP)
    keys = [FrontendKey(bytes((10, 96, 0, vip)), 80, 6) for vip in vips]
    return PortPlan(
        port,
        Family.IPV4,
        created,
        tuple(Frontend(key, Kind.CLUSTER_IP) for key in keys),
        tuple(backends),
        0,
        0,
        len(backends),
        flags,
        0,
        tuple(sorted(Member(b.address, b.port, b.flags) for b in (*backends, *leaving))),
    )

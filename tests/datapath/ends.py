# SPDX-License-Identifier: Apache-2.0
"""The ends of the packet tests' connections, and services between them.

Clients and backends have the EtherType of their family where BPF_PROG_TEST_RUN looks for it in
a packet without a link-layer header: 8.0.x.x begins with 0x0800, and bytes 4 and 5 of the
IPv6 addresses are 0x86dd.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pyproxy.model import Family, Protocol
from pyproxy.tables import Backend, BackendFlag, Frontend, FrontendKey, Kind, PortPlan, PortRange
from pyproxy.tables import ServiceFlag as Flag
from tests.datapath.flavours import PORT, SERVICE_PORT, service_address
from tests.datapath.packets import End
from tests.datapath.services import USABLE, members_of, service_name

CLIENT_PORT = 40_000
SOURCE_PORTS = PortRange(2_000, 1_000)
NOT_LOCAL = BackendFlag(0)


def packed(family: Family, four: str, six: str) -> bytes:
    """Return the one of two addresses that is the family's, in network order."""
    return ipaddress.ip_address(four if family is Family.IPV4 else six).packed


def client(family: Family, number: int = 1, port: int = CLIENT_PORT) -> End:
    """Return a client's end."""
    return End(packed(family, f"8.0.0.{number}", f"fd00:0:86dd::{number:x}"), port)


def backend(family: Family, number: int = 1, port: int = PORT) -> End:
    """Return a backend's end."""
    return End(packed(family, f"8.0.1.{number}", f"fd00:0:86dd:1::{number:x}"), port)


def frontend(family: Family, number: int = 1, port: int = SERVICE_PORT) -> End:
    """Return a frontend's end."""
    return End(service_address(family, number), port)


def node_address(family: Family, number: int = 1) -> bytes:
    """Return an address of the node."""
    return packed(family, f"8.0.2.{number}", f"fd00:0:86dd:2::{number:x}")


def plan(
    family: Family,
    protocol: Protocol,
    number: int = 1,
    backends: Sequence[int | End] = (1,),
    *,
    frontends: Sequence[End] = (),
    kind: Kind = Kind.CLUSTER_IP,
    local: int = 0,
    cluster: tuple[int, int] | None = None,
    flags: Flag = Flag.HAS_ENDPOINTS,
) -> PortPlan:
    """Return a service; its frontend is that of its number unless there are others.

    The first `local` backends are this node's. `cluster` is offset and count of the Cluster
    set, all of them where it is None.
    """
    ends = [each if isinstance(each, End) else backend(family, each) for each in backends]
    found = tuple(
        Backend(end.address, end.port, USABLE | (BackendFlag.LOCAL if n < local else NOT_LOCAL), "")
        for n, end in enumerate(ends)
    )
    keys = [FrontendKey(*end, int(protocol)) for end in frontends or [frontend(family, number)]]
    offset, count = cluster or (0, len(found))
    return PortPlan(
        name=service_name(number, protocol),
        family=family,
        created=f"2026-01-01T00:00:{number:02}Z",
        frontends=tuple(Frontend(key, kind) for key in keys),
        backends=found,
        local_count=local,
        cluster_offset=offset,
        cluster_count=count,
        flags=flags,
        affinity_timeout_s=0,
        members=tuple(sorted(members_of(found, local, offset, count))),
    )


def refusing(family: Family, protocol: Protocol, number: int = 1) -> PortPlan:
    """Return a service without endpoints (parity A8.1)."""
    return plan(family, protocol, number, (), flags=Flag(0))

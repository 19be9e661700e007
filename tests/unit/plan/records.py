# SPDX-License-Identifier: Apache-2.0
"""Builders of model records: valid by default, keywords say what matters to a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.model import (
    Address,
    Endpoint,
    EndpointSlice,
    Family,
    ObjectName,
    Prefix,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
    address_text,
)
from pyproxy.plan.options import Options
from pyproxy.tables import Backend

NODE = "node-1"
HTTP = ServicePort("http", Protocol.TCP, 80)


def addresses(*texts: str) -> tuple[Address, ...]:
    """Return addresses from text."""
    return tuple(map(parse_address, texts))


def cidrs(*texts: str) -> tuple[Prefix, ...]:
    """Return CIDRs from text."""
    return tuple(map(parse_prefix, texts))


def options(**changes: Any) -> Options:
    """Return the settings of node-1 in zone-a with one address a family."""
    own = addresses("192.168.0.2", "2001:db8::2")
    usual = Options(
        node_name=NODE,
        zone="zone-a",
        local_cidrs=cidrs("10.0.0.0/8", "fd00:10::/64"),
        node_ips=own,
        local_addresses=frozenset(own),
    )
    return usual._replace(**changes)


def service(
    name: str = "web",
    ips: Sequence[str] = ("172.30.0.1",),
    external: Sequence[str] = (),
    balanced: Sequence[str] = (),
    **changes: Any,
) -> Service:
    """Return Service ns/<name> of type ClusterIP with port http 80/TCP."""
    usual = Service(
        name=ObjectName("ns", name),
        created="2024-01-01T00:00:00Z",
        type="ClusterIP",
        cluster_ips=addresses(*ips),
        ports=(HTTP,),
        external_ips=addresses(*external),
        load_balancer_ips=addresses(*balanced),
    )
    return usual._replace(**changes)


def endpoint(text: str, state: str = "ready", node: str = "node-2", **changes: Any) -> Endpoint:
    """Return an endpoint; `state` is ready, unready, terminating (serving) or dead."""
    usual = Endpoint(
        address=parse_address(text),
        node_name=node,
        ready=state == "ready",
        serving=state in ("ready", "terminating", "serving"),
        terminating=state in ("terminating", "dead"),
    )
    return usual._replace(**changes)


def piece(
    *endpoints: Endpoint, name: str = "web-1", of: str = "web", **changes: Any
) -> EndpointSlice:
    """Return an EndpointSlice of Service ns/<of> with port http 8080/TCP."""
    usual = EndpointSlice(
        name=ObjectName("ns", name),
        service=ObjectName("ns", of),
        family=Family.IPV4,
        ports=(SlicePort("http", Protocol.TCP, 8080),),
        endpoints=endpoints,
    )
    return usual._replace(**changes)


def texts(backends: Iterable[Backend]) -> list[str]:
    """Return the addresses of backends as text."""
    return [address_text(backend.address) for backend in backends]

# SPDX-License-Identifier: Apache-2.0
"""The form of a case (schema pyproxy-flows/1): what it must have, and what else it says.

kube-proxy.yaml describes it in words. A key that is not known changes nothing, so it is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tests.flows.objects import Json

State = Literal["ready", "notready", "terminating", "terminating-notserving"]
Role = Literal["pod", "node", "localhost", "external"]
Backend = Literal["iptables", "nftables"]
ProtocolName = Literal["TCP", "UDP", "SCTP"]
Verdict = Literal["REJECT", "DROP", "PASS", "ACCEPT"]


class Node(Struct):
    """The node that a case is seen from."""

    name: str
    ips: list[str]
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    labels: dict[str, str] = {}


class DetectLocal(Struct):
    """How pods are recognised."""

    mode: str
    cidrs: list[str]


class Config(Struct, rename="camel"):
    """kube-proxy's settings."""

    detect_local: DetectLocal
    masquerade_all: bool
    localhost_node_ports: bool
    node_port_addresses: list[str]
    service_cidrs: list[str] = msgspec.field(name="serviceCIDRs")


class ServicePort(Struct, rename="camel"):
    """spec.ports[]."""

    port: int
    name: str | None = None
    target_port: int | str | None = None
    protocol: ProtocolName | None = None
    node_port: int | None = None


class Ingress(Struct, rename="camel"):
    """status.loadBalancer.ingress[]."""

    ip: str | None = None
    ip_mode: str | None = None
    hostname: str | None = None


class Affinity(Struct, rename="camel"):
    """Session affinity, with the timeout of its configuration."""

    type: str
    timeout_seconds: int


class Service(Struct, rename="camel"):
    """A Service's shorthand: the keys besides name, lbIngress and sessionAffinity are the API's."""

    name: str
    type: str
    ports: list[ServicePort]
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    external_name: str | None = None
    lb_ingress: list[Ingress] = []
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    session_affinity: Affinity | None = None
    traffic_distribution: str | None = None
    labels: dict[str, str] = {}


class SlicePort(Struct):
    """ports[] of an EndpointSlice."""

    name: str | None = None
    port: int | None = None
    protocol: ProtocolName | None = None


class Conditions(Struct):
    """endpoints[].conditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Struct, rename="camel"):
    """An endpoint's shorthand."""

    ip: str
    node: str | None = None
    state: State = "ready"
    conditions: Conditions | None = None
    zone_hints: list[str] | None = None
    node_hints: list[str] | None = None


class EndpointSlice(Struct, rename="camel"):
    """An EndpointSlice's shorthand."""

    service: str
    address_type: str
    ports: list[SlicePort]
    endpoints: list[Endpoint]
    name: str | None = None
    labels: dict[str, str] = {}


class Flow(Struct, rename="camel"):
    """One connection and what becomes of it."""

    name: str
    src: str
    src_role: Role
    dst: str
    port: int
    proto: ProtocolName
    expect: Verdict | list[str]
    masq: bool
    only: list[Backend] | None = None
    derived: bool | None = None


class Change(Struct):
    """A state of a case before or after its own, and the flows in that state."""

    flows: list[Flow]
    action: str = ""


class Categorize(Struct, rename="camel"):
    """The endpoint sets of a case of one service port."""

    cluster: list[str] | None
    local: list[str] | None
    all_reachable: list[str] | None
    has_any_endpoints: bool


class Healthcheck(Struct, rename="camel"):
    """What a load balancer that asks for the service's health is told."""

    port: int
    local_endpoints: int
    status: int | None = None


class Case(Struct):
    """One situation, in one or both of kube-proxy's modes."""

    id: str
    backends: list[Backend]
    node: Node
    config: Config
    services: list[Service]
    endpointslices: list[EndpointSlice]
    flows: list[Flow]
    name: str = ""
    source: str = ""
    kind: str = ""
    before: list[Change] = []
    after: list[Change] = []
    categorize: Categorize | None = None
    healthcheck: Healthcheck | None = None


def unknown_keys(body: Json) -> tuple[str, ...]:
    """Return the paths of a case's keys that mean nothing here.

    Raises msgspec.ValidationError, "why - at `$.path`", where the case is not as it must be.
    """
    return tuple(_unknown(body, msgspec.convert(body, Case), ""))


def _unknown(raw: Any, known: Any, path: str) -> Iterator[str]:
    """Yield what a struct has left out of what it was made of."""
    if isinstance(known, list):
        for index, (one, each) in enumerate(zip(raw, known, strict=True)):
            yield from _unknown(one, each, f"{path}[{index}]")
    if not isinstance(known, Struct):
        return
    names = dict(zip(known.__struct_encode_fields__, known.__struct_fields__, strict=True))
    for key, value in raw.items():
        if key in names:
            yield from _unknown(value, getattr(known, names[key]), f"{path}.{key}")
        else:
            yield f"{path}.{key}".removeprefix(".")

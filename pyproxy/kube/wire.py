# SPDX-License-Identifier: Apache-2.0
"""The fields of the Kubernetes API that are read, and no others, as msgspec structs.

The same structs decode manifests, pages of lists and watch events. null means "not there" to
Kubernetes, so every field may be None; labels are fields, as only their presence is asked for.
Structs are thrown away at once (see decode.py), so they take no part in garbage collection.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, field


class Name(Struct, gc=False):
    """What an error message and the last good state of an object need of any object."""

    name: str | None = None
    namespace: str | None = None


class Head(Struct, gc=False, rename="camel"):
    """What tells one kind of object from another."""

    kind: str | None = None
    api_version: str | None = None


class JsonItems(Struct, gc=False):
    """The members of a list, each still in bytes, so that a malformed one is alone with it."""

    items: list[msgspec.Raw] | None = None


class PlainItems(Struct, gc=False):
    """The members of a list that was read from YAML."""

    items: list[Any] | None = None


class Named(Struct, gc=False):
    """Any object with its name."""

    metadata: Name | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Namespace ("default" where none is given) and name ("" where there is none)."""
        found = self.metadata or Name()
        # interned: there are few namespaces, and a Service is named by its slices too
        return sys.intern(found.namespace or "default"), sys.intern(found.name or "")


class ServiceLabels(Struct, gc=False):
    """Labels of a Service; A1.1 asks for presence, so an empty value counts."""

    proxy_name: str | UnsetType | None = field(
        default=UNSET, name="service.kubernetes.io/service-proxy-name"
    )


class ServiceMeta(Struct, gc=False, rename="camel"):
    """metadata of a Service."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    creation_timestamp: str | None = None
    labels: ServiceLabels | None = None


class ServicePort(Struct, gc=False, rename="camel"):
    """spec.ports[]."""

    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None
    target_port: int | str | None = None


class ClientIP(Struct, gc=False, rename="camel"):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class AffinityConfig(Struct, gc=False):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIP | None = field(default=None, name="clientIP")


class ServiceSpec(Struct, gc=False, rename="camel"):
    """spec of a Service."""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None


class Ingress(Struct, gc=False, rename="camel"):
    """status.loadBalancer.ingress[]."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Struct, gc=False):
    """status.loadBalancer."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Struct, gc=False, rename="camel"):
    """status of a Service."""

    load_balancer: LoadBalancer | None = None


class Service(Struct, gc=False):
    """v1 Service."""

    metadata: ServiceMeta | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class SliceLabels(Struct, gc=False):
    """Labels of an EndpointSlice; `headless` counts when it is there at all (A1.1)."""

    service_name: str | None = field(default=None, name="kubernetes.io/service-name")
    headless: str | UnsetType | None = field(default=UNSET, name="service.kubernetes.io/headless")


class SliceAnnotations(Struct, gc=False):
    """Annotations of an EndpointSlice."""

    trigger_time: str | None = field(
        default=None, name="endpoints.kubernetes.io/last-change-trigger-time"
    )


class SliceMeta(Struct, gc=False):
    """metadata of an EndpointSlice."""

    name: str | None = None
    namespace: str | None = None
    labels: SliceLabels | None = None
    annotations: SliceAnnotations | None = None


class SlicePort(Struct, gc=False):
    """ports[] of an EndpointSlice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Conditions(Struct, gc=False):
    """endpoints[].conditions; nil has a meaning of its own (A1.10)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Struct, gc=False):
    """endpoints[].hints.forZones[] and forNodes[]."""

    name: str


class Hints(Struct, gc=False, rename="camel"):
    """endpoints[].hints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(Struct, gc=False, rename="camel"):
    """endpoints[] of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class EndpointSlice(Struct, gc=False, rename="camel"):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: SliceMeta | None = None
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


class NodeLabels(Struct, gc=False):
    """Labels of a Node."""

    zone: str | None = field(default=None, name="topology.kubernetes.io/zone")


class NodeMeta(Struct, gc=False, rename="camel"):
    """metadata of a Node."""

    name: str | None = None
    labels: NodeLabels | None = None
    deletion_timestamp: str | None = None


class Taint(Struct, gc=False):
    """spec.taints[]."""

    key: str | None = None


class NodeSpec(Struct, gc=False):
    """spec of a Node."""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(Struct, gc=False):
    """status.addresses[]."""

    type: str | None = None
    address: str | None = None


class NodeStatus(Struct, gc=False):
    """status of a Node."""

    addresses: list[NodeAddress] | None = None


class Node(Struct, gc=False):
    """v1 Node."""

    metadata: NodeMeta | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(Struct, gc=False):
    """spec of a ServiceCIDR."""

    cidrs: list[str] | None = None


class ServiceCIDR(Struct, gc=False):
    """networking.k8s.io/v1 ServiceCIDR."""

    spec: ServiceCIDRSpec | None = None

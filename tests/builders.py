# SPDX-License-Identifier: Apache-2.0
"""Valid Kubernetes objects and model records, a keyword away from any other.

`service`, `endpoint_slice`, `node` and `service_cidr` give what the API server would give, as plain
objects; `service_record`, `slice_record`, `endpoint`, `node_record` and `service_cidr_record` give
the model's records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.model import (
    Endpoint,
    EndpointSlice,
    Family,
    Node,
    ObjectName,
    Protocol,
    Service,
    ServiceCIDR,
    ServicePort,
    SlicePort,
    family_of,
)

CREATED = "2026-01-01T00:00:00Z"

Json = dict[str, Any]


def service(
    name: str = "web",
    *,
    namespace: str = "default",
    cluster_ip: str = "10.96.0.10",
    cluster_ips: Iterable[str] | None = None,
    ports: Iterable[Json] | None = None,
    labels: Mapping[str, str] | None = None,
    created: str = CREATED,
    ingress: Iterable[Json] = (),
    **spec: Any,
) -> Json:
    """Return a v1 Service of type ClusterIP with one TCP port http 80.

    Further keywords are fields of `spec` by their Kubernetes name, `type="NodePort"` say.
    """
    ips = list(cluster_ips) if cluster_ips is not None else [cluster_ip]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": created,
            "labels": dict(labels or {}),
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips[0] if ips else "",
            "clusterIPs": ips,
            "ports": [service_port()] if ports is None else list(ports),
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            **spec,
        },
        "status": {"loadBalancer": {"ingress": list(ingress)} if ingress else {}},
    }


def service_port(name: str = "http", port: int = 80, protocol: str = "TCP", **fields: Any) -> Json:
    """Return an entry of a Service's spec.ports."""
    return {"name": name, "protocol": protocol, "port": port, "targetPort": 8080, **fields}


def endpoint_slice(
    name: str = "web-a",
    *,
    service: str = "web",
    namespace: str = "default",
    addresses: Iterable[str] = ("10.244.1.2",),
    endpoints: Iterable[Json] | None = None,
    ports: Iterable[Json] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    address_type: str | None = None,
) -> Json:
    """Return a discovery.k8s.io/v1 EndpointSlice with one ready endpoint an address on node n1.

    `endpoints`, made by endpoint_json, replaces `addresses`; addressType follows the first one.
    """
    entries = [endpoint_json(one) for one in addresses] if endpoints is None else list(endpoints)
    first = next((one["addresses"][0] for one in entries if one.get("addresses")), "0.0.0.0")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service, **(labels or {})},
            "annotations": dict(annotations or {}),
        },
        "addressType": address_type or ("IPv6" if ":" in first else "IPv4"),
        "endpoints": entries,
        "ports": [slice_port()] if ports is None else list(ports),
    }


def slice_port(name: str | None = "http", port: int | None = 8080, protocol: str = "TCP") -> Json:
    """Return an entry of an EndpointSlice's ports."""
    return {"name": name, "protocol": protocol, "port": port}


def endpoint_json(
    address: str = "10.244.1.2",
    *,
    node_name: str = "n1",
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    **fields: Any,
) -> Json:
    """Return an entry of an EndpointSlice's endpoints; conditions of None are left out."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
        **({"nodeName": node_name} if node_name else {}),
        **fields,
    }


def node(
    name: str = "n1",
    *,
    internal_ips: Iterable[str] = ("192.168.0.1",),
    external_ips: Iterable[str] = (),
    zone: str = "",
    pod_cidrs: Iterable[str] = ("10.244.1.0/24",),
    taints: Iterable[str] = (),
    deleted: str = "",
) -> Json:
    """Return a v1 Node; `taints` are keys, `deleted` is the deletionTimestamp."""
    cidrs = list(pod_cidrs)
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **labels},
            **({"deletionTimestamp": deleted} if deleted else {}),
        },
        "spec": {
            **({"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}),
            "taints": [{"key": key, "effect": "NoSchedule"} for key in taints],
        },
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": ip} for ip in internal_ips),
                *({"type": "ExternalIP", "address": ip} for ip in external_ips),
                {"type": "Hostname", "address": name},
            ]
        },
    }


def service_cidr(
    name: str = "kubernetes", cidrs: Iterable[str] = ("10.96.0.0/16", "fd00:10:96::/112")
) -> Json:
    """Return a networking.k8s.io/v1 ServiceCIDR; `kubernetes` is what API servers make at first."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def service_record(
    name: str = "web",
    *,
    namespace: str = "default",
    cluster_ips: Iterable[str] = ("10.96.0.10",),
    ports: Iterable[ServicePort] = (ServicePort("http", Protocol.TCP, 80, target_port=8080),),
    external_ips: Iterable[str] = (),
    load_balancer_ips: Iterable[str] = (),
    source_ranges: Iterable[str] = (),
    created: str = CREATED,
    type: str = "ClusterIP",  # noqa: A002 - the field's name in Kubernetes and in the record
    **fields: Any,
) -> Service:
    """Return a Service record; addresses and ranges are written as text.

    Further keywords are the record's other fields (`external_policy_local=True`).
    """
    return Service(
        name=ObjectName(namespace, name),
        created=created,
        type=type,
        cluster_ips=_addresses(cluster_ips),
        ports=tuple(ports),
        external_ips=_addresses(external_ips),
        load_balancer_ips=_addresses(load_balancer_ips),
        source_ranges=tuple(parse_prefix(one) for one in source_ranges),
        **fields,
    )


def slice_record(
    name: str = "web-a",
    *,
    service: str = "web",
    namespace: str = "default",
    endpoints: Iterable[Endpoint] | None = None,
    ports: Iterable[SlicePort] = (SlicePort("http", Protocol.TCP, 8080),),
    family: Family | None = None,
) -> EndpointSlice:
    """Return an EndpointSlice record; its family is that of the first endpoint unless given."""
    entries = (endpoint(),) if endpoints is None else tuple(endpoints)
    first = family_of(entries[0].address) if entries else Family.IPV4
    return EndpointSlice(
        name=ObjectName(namespace, name),
        service=ObjectName(namespace, service),
        family=family or first,
        ports=tuple(ports),
        endpoints=entries,
    )


def endpoint(
    address: str = "10.244.1.2",
    node_name: str = "n1",
    *,
    ready: bool = True,
    serving: bool = True,
    terminating: bool = False,
    zone_hints: Iterable[str] = (),
    node_hints: Iterable[str] = (),
) -> Endpoint:
    """Return an Endpoint record, ready on node n1."""
    return Endpoint(
        address=parse_address(address),
        node_name=node_name,
        ready=ready,
        serving=serving,
        terminating=terminating,
        zone_hints=frozenset(zone_hints),
        node_hints=frozenset(node_hints),
    )


def node_record(
    name: str = "n1",
    *,
    addresses: Iterable[str] = ("192.168.0.1",),
    pod_cidrs: Iterable[str] = ("10.244.1.0/24",),
    **fields: Any,
) -> Node:
    """Return a Node record; addresses and CIDRs are written as text."""
    cidrs = tuple(parse_prefix(one) for one in pod_cidrs)
    return Node(name=name, addresses=_addresses(addresses), pod_cidrs=cidrs, **fields)


def service_cidr_record(
    name: str = "kubernetes", cidrs: Iterable[str] = ("10.96.0.0/16", "fd00:10:96::/112")
) -> ServiceCIDR:
    """Return a ServiceCIDR record; CIDRs are written as text."""
    return ServiceCIDR(name, tuple(parse_prefix(one) for one in cidrs))


def _addresses(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(parse_address(text) for text in texts)

# SPDX-License-Identifier: Apache-2.0
"""A case's shorthand becomes objects shaped as the API server's JSON."""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

_CONDITIONS = {
    "ready": {"ready": True, "serving": True, "terminating": False},
    "notready": {"ready": False, "serving": False, "terminating": False},
    "terminating": {"ready": False, "serving": True, "terminating": True},
    "terminating-notserving": {"ready": False, "serving": False, "terminating": True},
}
# Keys of a service's shorthand that are spec fields as they stand.
_SPEC_KEYS = (
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "healthCheckNodePort",
    "ipFamilies",
    "loadBalancerSourceRanges",
    "trafficDistribution",
)


def service_object(short: Json, age: int) -> Json:
    """Return a Service; `age` counts seconds, so that a case's services differ in age."""
    namespace, name = _split(short["name"])
    spec = {key: short[key] for key in _SPEC_KEYS if key in short}
    spec |= {"type": short["type"], "ports": short["ports"]}
    if short.get("clusterIP"):
        spec.setdefault("clusterIPs", [short["clusterIP"]])
    affinity = short.get("sessionAffinity")
    if affinity:
        spec["sessionAffinity"] = affinity["type"]
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity["timeoutSeconds"]}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "creationTimestamp": f"2024-01-01T00:00:{age:02}Z",
            "labels": short.get("labels", {}),
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": short.get("lbIngress", [])}},
    }


def _split(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise ValueError(f"{text!r} is no namespace/name")
    return namespace, name


def slice_object(short: Json, number: int) -> Json:
    """Return an EndpointSlice; `number` makes its name where the shorthand has none."""
    namespace, service = _split(short["service"])
    labels = {"kubernetes.io/service-name": service, **short.get("labels", {})}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": f"{service}-{number:03}-{short.get('name', 'slice')}",
            "labels": labels,
        },
        "addressType": short["addressType"],
        "ports": short["ports"],
        "endpoints": [_endpoint_object(endpoint) for endpoint in short["endpoints"]],
    }


def _endpoint_object(short: Json) -> Json:
    conditions = short.get("conditions") or _CONDITIONS[short.get("state", "ready")]
    endpoint: Json = {"addresses": [short["ip"]], "conditions": conditions}
    if short.get("node"):
        endpoint["nodeName"] = short["node"]
    hints = {}
    if short.get("zoneHints"):
        hints["forZones"] = [{"name": zone} for zone in short["zoneHints"]]
    if short.get("nodeHints"):
        hints["forNodes"] = [{"name": node} for node in short["nodeHints"]]
    if hints:
        endpoint["hints"] = hints
    return endpoint


def node_object(short: Json) -> Json:
    """Return the Node that a case is seen from."""
    addresses = [{"type": "InternalIP", "address": ip} for ip in short["ips"]]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": short["name"], "labels": short.get("labels", {})},
        "spec": {"podCIDRs": [short["podCIDR"]] if short.get("podCIDR") else []},
        "status": {"addresses": addresses},
    }

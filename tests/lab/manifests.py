# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as plain dicts, and files of them that change in one step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.lab.hosts import Host

Object = dict[str, Any]
READY = {"ready": True, "serving": True, "terminating": False}
TERMINATING = {"ready": False, "serving": True, "terminating": True}
NOT_READY = {"ready": False, "serving": False, "terminating": False}


def port(number: int, protocol: str = "TCP", *, name: str = "", target: int = 8080) -> Object:
    """Return an entry of spec.ports."""
    entry: Object = {"port": number, "protocol": protocol, "targetPort": target}
    return {**entry, "name": name} if name else entry


def service(name: str, addresses: Sequence[str], ports: Sequence[Object], **spec: object) -> Object:
    """Return a ClusterIP Service in namespace default; `spec` adds further fields."""
    families = ["IPv6" if ":" in address else "IPv4" for address in addresses]
    body = {
        "type": "ClusterIP",
        "clusterIP": addresses[0],
        "clusterIPs": list(addresses),
        "ipFamilies": families,
        "ports": list(ports),
        **spec,
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": body}


def slice_port(number: int, protocol: str = "TCP", *, name: str = "") -> Object:
    """Return an entry of an EndpointSlice's ports."""
    return {"name": name, "port": number, "protocol": protocol}


def endpoint(host: Host, family: int, conditions: Object | None = None) -> Object:
    """Return an endpoint for a pod (or a node's own process) with its nodeName."""
    return {
        "addresses": [host.address(family)],
        "conditions": READY if conditions is None else conditions,
        "nodeName": host.node_name,
    }


def endpoint_slice(
    service_name: str,
    family: int,
    endpoints: Iterable[Object],
    ports: Iterable[Object],
    suffix: str = "a",
) -> Object:
    """Return an EndpointSlice of a service, named SERVICE-vFAMILY-SUFFIX."""
    metadata = _metadata(f"{service_name}-v{family}-{suffix}")
    metadata["labels"] = {"kubernetes.io/service-name": service_name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": f"IPv{family}",
        "endpoints": list(endpoints),
        "ports": list(ports),
    }


def node(host: Host) -> Object:
    """Return a Node with its addresses."""
    addresses = [{"type": "InternalIP", "address": a} for a in (host.ipv4, host.ipv6)]
    metadata = {"name": host.name, "labels": {"kubernetes.io/hostname": host.name}}
    status = {"addresses": addresses}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


def _metadata(name: str) -> Object:
    return {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


def write(directory: Path, filename: str, *objects: Object) -> None:
    """Replace a file by one that holds `objects` (a List where it is not exactly one)."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    body = objects[0] if len(objects) == 1 else items
    replace(directory, filename, json.dumps(body, indent=1))


def replace(directory: Path, filename: str, text: str) -> None:
    """Replace a file in one step: agents see the old text or the new one."""
    fresh = directory / f".{filename}.new"
    fresh.write_text(text)
    fresh.replace(directory / filename)

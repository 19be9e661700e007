# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices as files for --manifests: what is measured, and the crowd beside.

Every service is dual stack with one slice a family, as the API server writes them. Each has a
file of its own: a directory of a thousand files is what a reader of it has to bear. They are
JSON, which is YAML too: the time that a YAML parser takes for them is none of the proxy's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

# An object of the API as JSON has it.
Object: TypeAlias = dict[str, Any]

NAMESPACE = "bench"
PORT = 80
ENDPOINTS_OF_THE_CROWD = 4
ENDPOINTS_OF_A_WHOLE = 10

CROWD4 = IPv4Address("10.96.16.0")
CROWD6 = IPv6Address("fd00:10:96::1000")
CROWD_PODS4 = IPv4Address("10.200.0.0")
CROWD_PODS6 = IPv6Address("fd00:10:200::")


class Addresses(NamedTuple):
    """One address of each family."""

    ipv4: str
    ipv6: str


def service(
    name: str, cluster_ips: Addresses, protocols: Sequence[str], node_port: int = 0
) -> Object:
    """Return a dual-stack Service with one port a protocol ("TCP", "UDP").

    It is of type ClusterIP, or NodePort where all protocols have a `node_port`.
    """
    at_nodes = {"nodePort": node_port} if node_port else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "clusterIP": cluster_ips.ipv4,
            "clusterIPs": list(cluster_ips),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": protocol.lower(), "protocol": protocol, "port": PORT, **at_nodes}
                for protocol in protocols
            ],
        },
    }


def slice_of(
    name: str, family: str, addresses: Sequence[str], ports: Mapping[str, int], node: str
) -> Object:
    """Return the EndpointSlice of a service in a family ("IPv4", "IPv6"), all endpoints ready.

    `ports` are target ports by protocol; `node` is where the endpoints are, "" for unknown.
    """
    placed = {"nodeName": node} if node else {}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": f"{name}-{family.lower()}",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "ports": [
            {"name": protocol.lower(), "protocol": protocol, "port": port}
            for protocol, port in ports.items()
        ],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                **placed,
            }
            for address in addresses
        ],
    }


def crowd_member(number: int) -> list[Object]:
    """Return one of the services that are only there, with its slices."""
    name = f"crowd-{number}"
    cluster_ips = Addresses(str(CROWD4 + number), str(CROWD6 + number))
    first = number * ENDPOINTS_OF_THE_CROWD
    places = range(first, first + ENDPOINTS_OF_THE_CROWD)
    ports = {"TCP": 8080}
    return [
        service(name, cluster_ips, ["TCP"]),
        slice_of(name, "IPv4", [str(CROWD_PODS4 + place) for place in places], ports, "elsewhere"),
        slice_of(name, "IPv6", [str(CROWD_PODS6 + place) for place in places], ports, "elsewhere"),
    ]


def crowded(own: Sequence[Object], services: int) -> list[Object]:
    """Return objects with as many services besides as make it so many."""
    others = services - sum(each["kind"] == "Service" for each in own)
    return [*own, *(each for number in range(others) for each in crowd_member(number))]


def whole_member(number: int) -> list[Object]:
    """Return an IPv4 service with a slice of ten pods, with all that controllers write there.

    What is read and thrown away again costs memory, too, while it is read.
    """
    name = f"whole-{number}"
    member = service(name, Addresses(str(CROWD4 + number), ""), ["TCP"])
    member["metadata"] |= {"labels": {"app": name}, "annotations": {"description": name}}
    member["spec"] |= {
        "clusterIPs": [member["spec"]["clusterIP"]],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "selector": {"app": name},
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
    }
    first = number * ENDPOINTS_OF_A_WHOLE
    addresses = [str(CROWD_PODS4 + first + place) for place in range(ENDPOINTS_OF_A_WHOLE)]
    endpoints = slice_of(name, "IPv4", addresses, {"TCP": 8080}, "elsewhere")
    endpoints["metadata"]["labels"] |= {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"
    }
    endpoints["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "name": name,
            "uid": _uid(number),
            "controller": True,
        }
    ]
    for place, endpoint in enumerate(endpoints["endpoints"]):
        pod = {"kind": "Pod", "namespace": NAMESPACE, "name": f"{name}-{place}"}
        endpoint |= {"zone": "a", "targetRef": pod | {"uid": _uid(first + place)}}
    return [member, endpoints]


def _uid(number: int) -> str:
    return str(UUID(int=number))


def write_crowd(folder: Path, services: int) -> None:
    """Write so many services that nobody calls, a file each."""
    for number in range(services):
        write(folder / f"crowd-{number}.json", crowd_member(number))


def write(path: Path, objects: Sequence[Mapping[str, object]]) -> None:
    """Write objects as one List, by rename: a reader sees the file before or after, whole."""
    stage(path, objects).rename(path)


def stage(path: Path, objects: Sequence[Mapping[str, object]]) -> Path:
    """Write what is to become `path` under a name that --manifests ignores, and return that."""
    staged = path.with_name(f".{path.name}.new")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    staged.write_text(text, encoding="utf-8")
    return staged

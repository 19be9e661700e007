# SPDX-License-Identifier: Apache-2.0
"""The kinds that the server knows: where they live, what can be selected, how a bookmark looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.apiserver.answers import Json


class Resource(NamedTuple):
    """A kind: its names, the fields a fieldSelector may name, and an empty object of it.

    `empty` is what Go writes for the zero value beside kind, apiVersion and metadata: a bookmark
    carries it. `has_generation`: metadata.generation counts the changes.
    """

    plural: str
    kind: str
    group: str
    version: str
    namespaced: bool
    fields: tuple[str, ...]
    empty: Json
    has_generation: bool = False

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def base(self) -> str:
        """The path of its API group and version."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    @property
    def qualified(self) -> str:
        """The name in messages: endpointslices.discovery.k8s.io, services."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NODE_INFO = (
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
)

SERVICES = Resource(
    "services",
    "Service",
    "",
    "v1",
    namespaced=True,
    fields=("metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"),
    empty={"spec": {}, "status": {"loadBalancer": {}}},
)
NODES = Resource(
    "nodes",
    "Node",
    "",
    "v1",
    namespaced=False,
    fields=("metadata.name", "spec.unschedulable"),
    empty={
        "spec": {},
        "status": {
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": dict.fromkeys(NODE_INFO, ""),
        },
    },
)
ENDPOINT_SLICES = Resource(
    "endpointslices",
    "EndpointSlice",
    "discovery.k8s.io",
    "v1",
    namespaced=True,
    fields=("metadata.name", "metadata.namespace"),
    empty={"addressType": "", "endpoints": None, "ports": None},
    has_generation=True,
)
SERVICE_CIDRS = Resource(
    "servicecidrs",
    "ServiceCIDR",
    "networking.k8s.io",
    "v1",
    namespaced=False,
    fields=("metadata.name",),
    empty={"spec": {}, "status": {}},
)
# Written by agents, recorded for inspection, never listed.
EVENTS = (
    Resource("events", "Event", "", "v1", namespaced=True, fields=(), empty={}),
    Resource("events", "Event", "events.k8s.io", "v1", namespaced=True, fields=(), empty={}),
)
STORED = (SERVICES, NODES, ENDPOINT_SLICES, SERVICE_CIDRS)


def resource_of_object(value: Mapping[str, Any]) -> Resource:
    """Return the resource of an object by its apiVersion and kind; raises ValueError."""
    wanted = (value.get("apiVersion"), value.get("kind"))
    for resource in STORED:
        if wanted == (resource.api_version, resource.kind):
            return resource
    known = ", ".join(f"{one.api_version} {one.kind}" for one in STORED)
    raise ValueError(f"the server stores no {wanted[0]} {wanted[1]}: give one of {known}")


def resource_named(name: str) -> Resource:
    """Return the resource of a kind ("Service") or plural ("services"); raises ValueError."""
    for resource in STORED:
        if name in {resource.kind, resource.plural}:
            return resource
    known = ", ".join(one.kind for one in STORED)
    raise ValueError(f"the server stores no {name}: give one of {known}")

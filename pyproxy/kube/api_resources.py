# SPDX-License-Identifier: Apache-2.0
"""What an API server is asked for, and whether it has that at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from pyproxy.kube.api_wire import Resources
from pyproxy.kube.client import ApiFailure, Cause, Line
from pyproxy.kube.events import Kind


class Resource(NamedTuple):
    """What is asked for; `plural`, `group` and `only` (the name of the only object) as in RBAC.

    `without` says what is not done where there is no such resource, or no right to read it: the
    agent does its work all the same. It is "" where nothing works without.
    """

    kind: Kind
    path: str
    plural: str
    group: str
    selectors: tuple[tuple[str, str], ...]
    only: str = ""
    without: str = ""


def resources(node_name: str, *, service_cidrs: bool) -> tuple[Resource, ...]:
    """Return what kube-proxy reads, by its selectors (parity A1.1).

    It reads ServiceCIDRs in every mode and uses them in nftables mode (A8.7): they are asked for
    only if `service_cidrs` says so, to spare the server a watch for every node.
    """
    return (*_always(node_name), *([_SERVICE_CIDRS] if service_cidrs else []))


# v1 came with Kubernetes 1.33; v1beta1 had to be switched on, and is not asked for
_SERVICE_CIDRS = Resource(
    Kind.SERVICE_CIDR,
    "/apis/networking.k8s.io/v1/servicecidrs",
    "servicecidrs",
    "networking.k8s.io",
    (),
    without="packets to addresses that no Service has are not dropped",
)


def _always(node_name: str) -> Iterator[Resource]:
    yield Resource(
        Kind.SERVICE,
        "/api/v1/services",
        "services",
        "",
        (
            ("labelSelector", "!service.kubernetes.io/service-proxy-name"),
            ("fieldSelector", "spec.clusterIP!=None"),
        ),
    )
    yield Resource(
        Kind.ENDPOINT_SLICE,
        "/apis/discovery.k8s.io/v1/endpointslices",
        "endpointslices",
        "discovery.k8s.io",
        (("labelSelector", "!service.kubernetes.io/headless"),),
    )
    yield Resource(
        Kind.NODE,
        "/api/v1/nodes",
        "nodes",
        "",
        (("fieldSelector", f"metadata.name={node_name}"),),
        only=node_name,
    )


def is_absent(resource: Resource, cause: Cause, line: Line, silence_s: float) -> bool:
    """Whether a request failed because the server has no such resource.

    403 says nothing of that: the right is looked at first, and the role of kube-proxy has it only
    from the release on that has the resource. Which resources there are everybody may ask
    (ClusterRole system:discovery).
    """
    if cause is not Cause.FORBIDDEN:
        return cause is Cause.MISSING
    try:
        with line.get(resource.path.rpartition("/")[0], {}, silence_s) as answer:
            found = msgspec.json.decode(answer.read(), type=Resources)
    except ApiFailure as failure:
        return failure.cause is Cause.MISSING
    except (msgspec.MsgspecError, RecursionError):
        return False
    names = {one.name for one in found.resources or []}
    return found.kind == "APIResourceList" and resource.plural not in names

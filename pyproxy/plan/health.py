# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told of a node and of its Services (parity A10.5, A11.4, A12.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyproxy.model import Address, Family, Node, Service
from pyproxy.plan.frontends import health_check_node_port
from pyproxy.tables import BackendFlag, PortPlan

TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"

# operators of IntFlag cost a microsecond each
_COUNTED = BackendFlag.LOCAL.value | BackendFlag.READY.value


class HealthCheck(NamedTuple):
    """A Service whose load balancer asks each node for its health, by `port` (0: it has none).

    `endpoints` is how many ready ones this node has, by each family that the Service has a
    ClusterIP in. `uid` is for Events.
    """

    port: int
    endpoints: Mapping[Family, int]
    uid: str = ""


def health_check(service: Service, plans: Iterable[PortPlan]) -> HealthCheck | None:
    """Return the health check of a service that is planned so, None where nobody asks (A10.5)."""
    if not (service.type == "LoadBalancer" and service.external_policy_local):
        return None
    return HealthCheck(health_check_node_port(service), local_ready_endpoints(plans), service.uid)


def local_ready_endpoints(plans: Iterable[PortPlan]) -> dict[Family, int]:
    """Count the addresses of this node's ready endpoints over all ports of a service (A11.4).

    Hints do not matter, nor does who stands in for ready ones: members are asked, not backends.
    """
    found: dict[Family, set[Address]] = {}
    for plan in plans:
        found.setdefault(plan.family, set()).update(
            member.address for member in plan.members if member.flags.value & _COUNTED == _COUNTED
        )
    return {family: len(addresses) for family, addresses in found.items()}


def is_eligible(node: Node | None) -> bool:
    """Whether load balancers may send to a node: it is known, and nobody is about to remove it.

    Other taints do not matter (parity A12.6, KEP-3836).
    """
    return node is not None and not node.deleting and TO_BE_DELETED not in node.taints

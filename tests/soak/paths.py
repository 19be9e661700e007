# SPDX-License-Identifier: Apache-2.0
"""The ways on which services are asked."""

from __future__ import annotations

from typing import NamedTuple

from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Node
from tests.soak.services import FAMILIES, PORTS, Mortal, Service


class Path(NamedTuple):
    """Who asks which service: by its ClusterIP, or by the NodePort on the node `at`.

    `packets` is the node that translates its packets; None where sockets are translated.
    """

    name: str
    client: Host
    service: Service
    packets: Node | None
    at: Node | None = None

    @property
    def asserted(self) -> bool:
        """Whether no connection has a reason to fail."""
        return not isinstance(self.service, Mortal)

    @property
    def sticky(self) -> bool:
        """Whether a client stays with an endpoint that stays."""
        return "sessionAffinity" in self.service.spec

    def destination(self, port: str, family: int) -> tuple[str, int]:
        """Return where a port of the service is asked."""
        if self.at:
            return self.at.address(family), self.service.node_port(port)
        return self.service.address(family), PORTS[port][1]

    def label(self, family: int) -> str:
        """Return the name of what is kept in a family."""
        return f"{self.name}/{family}"


def paths_of(cluster: Cluster, services: list[Service], mortal: Mortal) -> list[Path]:
    """Return all paths of a cluster whose second node leaves its pods to packets."""
    first, second, self_first, self_second, local, sticky = services
    one, two = cluster.nodes
    outside, stranger = cluster.client, cluster.stranger
    return [
        Path("pod, sockets: backend here", one.pods[0], first, None),
        Path("pod, sockets: elsewhere", one.pods[0], second, None),
        Path("pod, sockets: itself too", one.pods[0], self_first, None),
        Path("pod, packets: backend here", two.pods[0], second, two),
        Path("pod, packets: elsewhere", two.pods[0], first, two),
        Path("pod, packets: itself too", two.pods[0], self_second, two),
        Path("node's process", one, second, None),
        Path("outside, NodePort: backend there", outside, first, one, one),
        Path("outside, NodePort: elsewhere", outside, second, one, one),
        Path("outside, NodePort, policy Local", outside, local, two, two),
        Path("outside, ClusterIP: backend there", stranger, first, one),
        Path("outside, ClusterIP: elsewhere", stranger, sticky, one),
        Path("dying: pod, sockets", one.pods[0], mortal, None),
        Path("dying: pod, packets", two.pods[0], mortal, two),
        Path("dying: outside, NodePort", outside, mortal, one, one),
    ]


def targets(path: Path) -> list[dict[str, object]]:
    """Return what asking.py asks by turns: the path in each family."""
    found: list[dict[str, object]] = []
    for family in FAMILIES:
        address, port = path.destination("web", family)
        found.append({"protocol": "tcp", "family": family, "address": address, "port": port})
    return found


def kept(path: Path) -> list[dict[str, object]]:
    """Return what holding.py keeps on a path."""
    return [
        {
            "path": path.label(family),
            "bulk": path.destination("bulk", family),
            "dns": path.destination("dns", family),
        }
        for family in FAMILIES
    ]

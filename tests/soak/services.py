# SPDX-License-Identifier: Apache-2.0
"""The services of a soak: which endpoints of each stay and which come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.lab import manifests
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host
from tests.lab.manifests import READY, TERMINATING, Object, endpoint, endpoint_slice, slice_port

FAMILIES = (4, 6)
# what each service has, and where its pods listen: respond.py, echo.py and datagrams.py
PORTS = {"web": ("TCP", 80, 8080), "bulk": ("TCP", 81, 7778), "dns": ("UDP", 53, 7779)}
MORTAL_PORT = 9099
AFFINITY_S = 10
GONE = "gone"
STATES: dict[str, Object | None] = {"ready": READY, "terminating": TERMINATING, GONE: None}
# what may follow: each of these changes is one of the maps, too
NEXT = {"ready": ("terminating", GONE), "terminating": (GONE,), GONE: ("ready",)}


@dataclass(frozen=True, eq=False)
class Service:
    """A service; `number` makes its addresses and NodePorts, `spec` are further fields.

    `stays` is an endpoint all the time, each of `changing` now and then.
    """

    name: str
    number: int
    stays: Host
    changing: tuple[Host, ...]
    spec: Mapping[str, object]

    def address(self, family: int) -> str:
        """Return the ClusterIP."""
        return f"fd00:10:96::5{self.number:02}" if family == 6 else f"10.96.5.{self.number}"

    def node_port(self, name: str) -> int:
        """Return the NodePort of a port."""
        return 31_000 + 100 * self.number + PORTS[name][1]

    def service(self) -> Object:
        """Return the Service."""
        ports: list[Object] = [
            manifests.port(number, protocol, name=name, target=target)
            | {"nodePort": self.node_port(name)}
            for name, (protocol, number, target) in PORTS.items()
        ]
        addresses = [self.address(family) for family in FAMILIES]
        return manifests.service(self.name, addresses, ports, type="NodePort", **self.spec)

    def slices(self, states: Sequence[str]) -> list[Object]:
        """Return its slices while the changing ones are in these states (of STATES)."""
        ports = [slice_port(to, protocol, name=n) for n, (protocol, _, to) in PORTS.items()]
        return [endpoint_slice(self.name, f, self._endpoints(states, f), ports) for f in FAMILIES]

    def _endpoints(self, states: Sequence[str], family: int) -> list[Object]:
        found = [endpoint(self.stays, family)]
        for host, state in zip(self.changing, states, strict=True):
            conditions = STATES[state]
            if conditions:
                found.append(endpoint(host, family, conditions))
        return found


class Mortal(Service):
    """A service with one endpoint that dies; that one has a server of its own (MORTAL_PORT)."""

    def _endpoints(self, states: Sequence[str], family: int) -> list[Object]:
        # its port is another one, and so it is in a slice of its own
        return super()._endpoints([GONE] * len(states), family)

    def slices(self, states: Sequence[str]) -> list[Object]:
        """Return its slices while the one that dies is there, or GONE."""
        (dying,) = self.changing
        ports = [slice_port(MORTAL_PORT, name="web")]
        found = super().slices(states)
        for family in FAMILIES:
            there = [endpoint(dying, family)] if states[0] != GONE else []
            found.append(endpoint_slice(self.name, family, there, ports, "b"))
        return found


def services_of(cluster: Cluster) -> tuple[list[Service], Mortal]:
    """Return the services, and the one with an endpoint that dies; each node has four pods.

    A node's first pod asks, the second one stays, the others come and go.
    """
    one, two = (node.pods for node in cluster.nodes)
    local = {"externalTrafficPolicy": "Local"}
    sticky = {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY_S}},
    }
    services = [
        Service("first", 1, one[1], (one[2], one[3]), {}),
        Service("second", 2, two[1], (two[2], two[3]), {}),
        Service("self-first", 3, one[0], (one[2], two[3]), {}),
        Service("self-second", 4, two[0], (two[2], one[3]), {}),
        Service("local", 5, two[1], (two[2], two[3]), local),
        Service("sticky", 6, two[1], (two[2], two[3]), sticky),
    ]
    return services, Mortal("mortal", 7, two[1], (one[2],), {})

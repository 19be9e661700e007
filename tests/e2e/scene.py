# SPDX-License-Identifier: Apache-2.0
"""A running cluster with agents, and applications that tests put on it and take away again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyproxy.kernel import inspect
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.pins import Pins
from pyproxy.model import Family, address_text
from pyproxy.tables import BackendFlag
from tests.datapath.flowtable import Flows, Key
from tests.lab import leftovers, manifests
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host
from tests.lab.manifests import Object, endpoint, endpoint_slice, port, slice_port
from tests.lab.prober import Outcome, Target, answered, tcp, udp
from tests.lab.waiting import wait_for

TCP_PORT = 80
UDP_PORT = 53
FAMILIES = (4, 6)


@dataclass(frozen=True)
class App:
    """A dual-stack service with TCP port 80 (named web) and UDP port 53 (named dns)."""

    name: str
    ipv4: str
    ipv6: str

    @property
    def addresses(self) -> tuple[str, str]:
        """Its ClusterIPs."""
        return self.ipv4, self.ipv6

    def address(self, family: int) -> str:
        """Return the ClusterIP of family 4 or 6; 46 is the IPv4 one."""
        return self.ipv6 if family == 6 else self.ipv4

    def service(self, **spec: object) -> Object:
        """Return the Service; `spec` adds fields."""
        ports = [port(TCP_PORT, name="web"), port(UDP_PORT, "UDP", name="dns")]
        return manifests.service(self.name, self.addresses, ports, **spec)

    def slice(
        self,
        family: int,
        pods: Iterable[Host],
        conditions: Object | None = None,
        suffix: str = "a",
        number: int = 8080,
    ) -> Object:
        """Return an EndpointSlice of a family with these pods, all in the same condition."""
        endpoints = [endpoint(pod, family, conditions) for pod in pods]
        ports = [slice_port(number, name="web"), slice_port(number, "UDP", name="dns")]
        return endpoint_slice(self.name, family, endpoints, ports, suffix)

    def slices(self, pods: Sequence[Host], conditions: Object | None = None) -> list[Object]:
        """Return a slice for each family with these pods."""
        return [self.slice(family, pods, conditions) for family in FAMILIES]

    def tcp(self, family: int = 4, timeout_s: float = 3.0) -> Target:
        """Return the TCP port as a destination; family 46 dials from an IPv6 socket."""
        return tcp(self.address(family), TCP_PORT, mapped=family == 46, timeout_s=timeout_s)

    def udp(self, family: int = 4, *, connected: bool = False, timeout_s: float = 3.0) -> Target:
        """Return the UDP port as a destination."""
        mapped = family == 46
        address = self.address(family)
        return udp(address, UDP_PORT, connected=connected, mapped=mapped, timeout_s=timeout_s)

    def shown(self, to: Target) -> str:
        """Return how a socket shows the service when it dialled `to`."""
        return f"{'::ffff:' if to.family == 46 else ''}{to.address} {to.port}"

    def every_target(self) -> list[Target]:
        """Return each kind of socket there is: TCP and both ways of UDP, three families."""
        kinds: list[Target] = []
        for family in (4, 6, 46):
            kinds += [self.tcp(family), self.udp(family), self.udp(family, connected=True)]
        return kinds


class Scene:
    """A cluster, its agents, and the manifests that the tests of a module have written.

    `translation` is what the agents' --socket-translation says.
    """

    def __init__(self, cluster: Cluster, agents: list[Agent], translation: str = "all") -> None:
        self.cluster = cluster
        self.agents = agents
        self.translation = translation
        self._apps = 0
        self.patience_s = 5.0  # for how long a change may take to be seen

    @property
    def directory(self) -> Path:
        """Where the manifests are that all agents read."""
        return self.cluster.directory / "manifests"

    def by_packets(self, client: Host) -> bool:
        """Say whether packets of a pod or node are translated, and not its sockets."""
        return self.translation == "host" and client.is_pod

    def agent_of(self, node: Host) -> Agent:
        """Return a node's agent."""
        return next(agent for agent in self.agents if agent.node is node)

    def app(self, name: str) -> App:
        """Return an application with addresses of its own; nothing is written yet."""
        self._apps += 1
        return App(f"{name}-{self._apps}", f"10.96.0.{self._apps}", f"fd00:10:96::{self._apps:x}")

    def put(self, filename: str, *objects: Object) -> None:
        """Write a file."""
        manifests.write(self.directory, filename, *objects)

    def drop(self, filename: str) -> None:
        """Remove a file."""
        (self.directory / filename).unlink()

    def run(self, app: App, pods: Sequence[Host], **spec: object) -> None:
        """Write an application with ready pods and wait until exactly they answer everywhere."""
        self.put(f"{app.name}.json", app.service(**spec), *app.slices(pods))
        self.await_backends(app, pods)

    def await_backends(self, app: App, pods: Sequence[Host]) -> None:
        """Wait until on every node each kind of port and family has exactly these backends."""
        for node in self.cluster.nodes:
            for family in FAMILIES:
                for to in (app.tcp(family), app.udp(family)):
                    self.await_answers(node, to, pods)

    def await_answers(self, client: Host, to: Target, pods: Sequence[Host]) -> None:
        """Wait until exactly these pods answer (15 draws for each leave none out)."""
        expected = {pod.name for pod in pods}
        impatient = replace(to, timeout_s=0.2)

        def settled() -> bool:
            return set(answered(client.prober.draw(impatient, 15 * len(pods)))) == expected

        wait_for(settled, self.patience_s, f"{sorted(expected)} to answer {client.name} at {to}")

    def await_error(self, client: Host, to: Target, error: str) -> Outcome:
        """Wait until a conversation fails with this errno and return it."""
        outcomes: list[Outcome] = []

        def failed() -> bool:
            outcomes.append(client.prober.once(to))
            return outcomes[-1].error == error

        try:
            wait_for(failed, self.patience_s, error)
        except TimeoutError as timeout:
            raise AssertionError(f"{client.name} to {to}: last was {outcomes[-1]}") from timeout
        return outcomes[-1]

    def clear(self) -> None:
        """Remove every file and wait until every node's maps are empty."""
        for path in self.directory.iterdir():
            path.unlink()
        for agent in self.agents:
            self._await_no_services(agent)

    def _await_no_services(self, agent: Agent) -> None:
        wait_for(lambda: not agent.services(), self.patience_s, "no service to be left in the maps")


@contextmanager
def running(cluster: Cluster, translation: str = "all") -> Iterator[Scene]:
    """Make a cluster and give its scene, with an agent on every node; nothing of it is left."""
    with cluster:
        cluster.respond()
        yield Scene(cluster, cluster.start_agents(), translation)
    assert leftovers.traces(cluster.name) == []


def counters(agent: Agent, family: int) -> Counter[str]:
    """Return what a node's programs of family 4 or 6 have counted."""
    return Counter(inspect.counters(Pins(agent.bpffs, Family(family))))


def dangling(agent: Agent) -> list[Key]:
    """Return the entries of a node's connection tables that lead to records of others."""
    found: list[Key] = []
    for family in Family:
        for directory in Pins(agent.bpffs, family).connection_tables():
            with closing(Flows(directory)) as table:
                found += table.dangling()
    return found


def members(agent: Agent, family: int, name: str) -> set[tuple[str, bool]]:
    """Return address and readiness of every endpoint of a service in a node's maps."""
    datapath = KernelDatapath(Pins(agent.bpffs, Family(family)), write=False)
    snapshot = datapath.read()
    datapath.close()
    return {
        (address_text(member.address), BackendFlag.READY in member.flags)
        for service, named in snapshot.names.items()
        if named.name.name == name
        for member in snapshot.members.get(service, ())
    }


def service_names(services: Iterable[dict[str, Any]]) -> set[str]:
    """Return the names in what `pyproxy services -o json` lists."""
    return {service["name"] for service in services}

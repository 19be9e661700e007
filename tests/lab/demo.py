# SPDX-License-Identifier: Apache-2.0
"""What scripts/demo runs: the main job, step by step, on two nodes out of namespaces.

Exit status 0 when every step did what it says, 1 with the reason and the agents' logs when
one did not. Nothing is left behind in either case, which the demo checks itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.lab import leftovers, manifests
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.evenness import evenness
from tests.lab.hosts import Host
from tests.lab.manifests import Object
from tests.lab.prober import Outcome, Target, answered, tcp, udp
from tests.lab.waiting import wait_for

IPV4, IPV6 = "10.96.0.80", "fd00:10:96::80"
DRAWS = 300
# One run makes 24 tests of evenness: rarer than one false alarm in a million runs.
UNEVEN = 1e-8
FAMILIES = {4: "IPv4", 6: "IPv6", 46: "IPv4 by an IPv6 socket"}
STEPS = 10
NODE_PORTS = {"tcp": 30_080, "udp": 30_053}


class StepError(Exception):
    """A step did not show what it is there to show; the message says what was seen."""


@dataclass
class Stage:
    """Where the demo shows what it does: one line a step, colours only on a terminal."""

    console: Console
    number: int = 0
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Print a step's line when it is done; the list takes words about the result."""
        self.number += 1
        began = time.monotonic()
        head = f"[{self.number}/{STEPS}] {what}"
        result: list[str] = []
        try:
            with self.console.status(head):
                yield result
        except BaseException:
            self.console.print(f"[bold red]failed[/] {head}", highlight=False)
            raise
        took = f"{time.monotonic() - began:.2f} s"
        notes = "".join(f"\n      {note}" for note in result)
        self.console.print(f"[bold green]ok[/] {head} ({took}){notes}", highlight=False)


def expect(condition: object, otherwise: str) -> None:
    """Raise StepError with this sentence unless the condition holds."""
    if not condition:
        raise StepError(otherwise)


def service_objects(pods: Sequence[Host]) -> list[Object]:
    """Return the slices of the demo's service with these pods."""
    ports = [manifests.slice_port(8080, name="web"), manifests.slice_port(8080, "UDP", name="dns")]
    return [
        manifests.endpoint_slice("web", f, [manifests.endpoint(p, f) for p in pods], ports)
        for f in (4, 6)
    ]


def target(protocol: str, family: int) -> Target:
    """Return the service's TCP port 80 or UDP port 53 in a family."""
    address, mapped = (IPV6 if family == 6 else IPV4), family == 46
    if protocol == "tcp":
        return tcp(address, 80, mapped=mapped)
    return udp(address, 53, mapped=mapped)


class Demo:
    """The steps, in order; each raises StepError or what the lab raises."""

    def __init__(self, stage: Stage, cluster: Cluster) -> None:
        self.stage = stage
        self.cluster = cluster
        self.directory = cluster.directory / "manifests"
        self.agents: list[Agent] = []

    def run(self) -> None:
        """Do everything but the building and the final check."""
        self.serve()
        self.start()
        self.connect()
        self.come_from_outside()
        self.show_status()
        self.change_endpoints()
        self.kill_agent()
        self.clean_up()

    def serve(self) -> None:
        """Start the pods' servers and check the wires, without any proxy."""
        with self.stage.step("Starting a TCP and UDP server in every pod") as result:
            self.cluster.respond()
            client = self.cluster.client
            for pod in self.cluster.pods:
                outcome = client.prober.once(tcp(pod.ipv4, 8080))
                expect(outcome.who == pod.name, f"the client outside got {outcome} of {pod.name}")
            result.append("the client outside reaches all of them directly")

    def start(self) -> None:
        """Write the manifests and start an agent on each node."""
        with self.stage.step("Starting `pyproxy run --manifests DIR` on each node") as result:
            ports = [
                manifests.port(80, name="web") | {"nodePort": NODE_PORTS["tcp"]},
                manifests.port(53, "UDP", name="dns") | {"nodePort": NODE_PORTS["udp"]},
            ]
            nodes = [manifests.node(node) for node in self.cluster.nodes]
            manifests.write(self.directory, "nodes.json", *nodes)
            web = manifests.service("web", [IPV4, IPV6], ports, type="NodePort")
            manifests.write(self.directory, "web.json", web)
            slices = service_objects(self.cluster.pods)
            manifests.write(self.directory, "web-endpoints.json", *slices)
            self.agents = self.cluster.start_agents()
            result.append(f"service web: {IPV4} and {IPV6}, TCP 80 and UDP 53, six endpoints;")
            result.append(f"NodePorts {NODE_PORTS['tcp']} and {NODE_PORTS['udp']}")

    def connect(self) -> None:
        """Make connections of all kinds and show who answered."""
        with self.stage.step("Connecting from pods and nodes to the ClusterIPs") as result:
            table, total = self._draws()
            result.append(f"{total} connections and datagrams, none failed")
        self.stage.console.print(table)

    def _draws(self) -> tuple[Table, int]:
        names = [pod.name for pod in self.cluster.pods]
        table = Table("from", "family", "protocol", *names, "even?", title="Who answered")
        total = 0
        for node in self.cluster.nodes:
            for client, label in ((node.pods[0], f"pod {node.pods[0].name}"), (node, node.name)):
                for family, family_name in FAMILIES.items():
                    for protocol in ("tcp", "udp"):
                        to = target(protocol, family)
                        row = self._row(client.prober.draw(to, DRAWS), to, label)
                        table.add_row(label, family_name, protocol.upper(), *row)
                        total += DRAWS
        return table, total

    def _row(self, outcomes: list[Outcome], to: Target, label: str) -> list[str]:
        failed = [outcome for outcome in outcomes if outcome.error]
        expect(not failed, f"{label} to {to}: {len(failed)} failed, the first: {failed[:1]}")
        shown = f"{'::ffff:' if to.family == 46 else ''}{to.address} {to.port}"
        seen = {o.peer if to.protocol == "tcp" else o.source for o in outcomes}
        expect(seen == {shown}, f"{label} dialled {shown} and its socket shows {seen}")
        counts = answered(outcomes)
        chance = evenness([counts[pod.name] for pod in self.cluster.pods])
        expect(chance > UNEVEN, f"{label} to {to} was answered unevenly: {dict(counts)}")
        return [*(str(counts[pod.name]) for pod in self.cluster.pods), f"p={chance:.2f}"]

    def come_from_outside(self) -> None:
        """Ask the first node's NodePorts from the outside host; show what the pods see of it."""
        node, client = self.cluster.nodes[0], self.cluster.client
        near = {pod.name for pod in node.pods}
        with self.stage.step(f"Asking {node.name}'s NodePorts from a host outside") as result:
            for family in (4, 6):
                for protocol, number in NODE_PORTS.items():
                    make = tcp if protocol == "tcp" else udp
                    outcomes = client.prober.draw(make(node.address(family), number), DRAWS)
                    failed = [outcome for outcome in outcomes if outcome.error]
                    expect(not failed, f"{len(failed)} failed, the first: {failed[:1]}")
                    for each in outcomes:
                        shown = client if each.who in near else node
                        expect(
                            each.seen.rpartition(" ")[0] == shown.address(family),
                            f"{each.who} saw {each.seen} and not {shown.name}",
                        )
            result.append(f"{4 * DRAWS} connections and datagrams, none failed: pods of")
            result.append(f"{node.name} saw the client, those of the other node {node.name}")

    def show_status(self) -> None:
        """Print `pyproxy status` of both nodes as an operator sees it."""
        with self.stage.step("Asking `pyproxy status` on both nodes"):
            replies = [agent.cli("status") for agent in self.agents]
        for agent, reply in zip(self.agents, replies, strict=True):
            self.stage.console.print(f"\n{agent.node.name}$ pyproxy status", highlight=False)
            self.stage.console.print(reply.stdout.rstrip(), highlight=False, markup=False)
            expect(reply.status == 0, f"{agent.node.name} is unhealthy: {reply.stderr}")

    def change_endpoints(self) -> None:
        """Replace the other five endpoints by the sixth and measure until it answers."""
        client, new = self.cluster.pods[0], self.cluster.pods[4]
        with self.stage.step(
            "Changing the EndpointSlices: five endpoints become another"
        ) as result:
            for family, protocol in ((4, "tcp"), (6, "tcp"), (4, "udp"), (6, "udp")):
                took = self._change(client, target(protocol, family), new)
                result.append(
                    f"{protocol.upper()} {FAMILIES[family]}: {new.name} answered {took:.1f} ms "
                    "after the file had changed, and from then on only it"
                )

    def _change(self, client: Host, to: Target, new: Host) -> float:
        self._set_endpoints(client, to, [pod for pod in self.cluster.pods if pod is not new])
        client.prober.start("change", to)
        wait_for(lambda: client.prober.seen("change")[0] > 50, 5, "the connections to flow")
        changed = time.monotonic()
        manifests.write(self.directory, "web-endpoints.json", *service_objects([new]))
        wait_for(lambda: client.prober.seen("change")[1] == {new.name}, 5, f"only {new.name}")
        outcomes = client.prober.stop("change")
        failed = [outcome for outcome in outcomes if outcome.error]
        expect(not failed, f"{len(failed)} connections failed during the change: {failed[:1]}")
        servers = [outcome.who for outcome in outcomes]
        first = servers.index(new.name)
        expect(set(servers[first:]) == {new.name}, f"{to} went back to a removed endpoint")
        return 1000 * (outcomes[first].at - changed)

    def _set_endpoints(self, client: Host, to: Target, pods: Sequence[Host]) -> None:
        expected = {pod.name for pod in pods}
        manifests.write(self.directory, "web-endpoints.json", *service_objects(pods))
        wait_for(
            lambda: set(answered(client.prober.draw(to, 120))) == expected, 5, f"{expected} of {to}"
        )

    def kill_agent(self) -> None:
        """SIGKILL an agent under a held connection and a stream of new ones; bring it back."""
        agent, client = self.agents[0], self.cluster.nodes[0].pods[0]
        to = target("tcp", 4)
        self._set_endpoints(client, to, self.cluster.pods)
        with self.stage.step("Killing the agent of node1 (SIGKILL) under traffic") as result:
            client.prober.open("held", to)
            server = client.prober.ask("held", to)[0].who
            client.prober.start("new", to)
            agent.kill()
            dead = self._flow(client, 1000)
            took = agent.start()
            self._flow(client, 1000)
            drawn = answered(client.prober.stop("new"))
            still = answered(client.prober.ask("held", to, 10))
            self._expect_all_answered(drawn, still, server)
            result += [
                f"{dead} new connections while no agent ran, {drawn.total()} in all, none failed",
                f"the connection held since before still talks to {server}",
                f"the agent was back and synced after {took:.2f} s",
            ]

    def _flow(self, client: Host, more: int) -> int:
        first, _ = client.prober.seen("new")
        wait_for(lambda: client.prober.seen("new")[0] >= first + more, 20, f"{more} connections")
        return client.prober.seen("new")[0] - first

    def _expect_all_answered(self, drawn: Counter[str], still: Counter[str], server: str) -> None:
        names = {pod.name for pod in self.cluster.pods}
        expect(set(drawn) == names, f"while the agent was dead: {dict(drawn)}")
        expect(still == {server: 10}, f"the held connection to {server} gave {dict(still)}")

    def clean_up(self) -> None:
        """Stop the agents and take away what they attached and pinned."""
        with self.stage.step("Stopping the agents and running `pyproxy cleanup`") as result:
            for agent in self.agents:
                took = agent.stop()
                expect(took < 2, f"the agent of {agent.node.name} took {took:.1f} s to end")
                reply = agent.cli("cleanup")
                expect(reply.status == 0, f"cleanup of {agent.node.name} said: {reply.stderr}")
            pins = [str(path) for path in self.cluster.bpffs.rglob("*") if path.is_file()]
            own = [pin for pin in pins if not pin.endswith(".debug")]
            expect(not own, f"pins are left: {own}")
            result.append("no program, map or link is pinned any more")


def perform(stage: Stage) -> str:
    """Run all steps on a cluster of their own; return its name."""
    cluster = Cluster(nodes=2, pods_per_node=3)
    with ExitStack() as stack:
        with stage.step("Building two nodes with three pods each, and a client outside"):
            stack.enter_context(cluster)
        try:
            Demo(stage, cluster).run()
        except Exception as error:
            # An error of the lab may bring the end of a log along.
            logs = [a.tail() for a in cluster.agents if a.log.name not in str(error)]
            stage.console.print("".join(logs), highlight=False, markup=False)
            raise
    return cluster.name


def main() -> int:
    """Run the demo and return the exit status."""
    argparse.ArgumentParser(prog="scripts/demo", description=__doc__).parse_args()
    plain = not sys.stdout.isatty()
    stage = Stage(Console(width=120 if plain else None))
    stage.console.print("[bold]pyproxy: the main job on two nodes out of network namespaces[/]")
    try:
        name = perform(stage)
        with stage.step("Looking for what is left: processes, cgroups, mounts, namespaces, pins"):
            left = leftovers.traces(name)
            expect(not left, f"left behind: {', '.join(left)}")
    except Exception as error:  # noqa: BLE001 - whatever it was, the demo has failed and says why
        reason = f"{type(error).__name__}: {error}"
        stage.console.print(reason, style="red", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        stage.console.print("Interrupted; nothing is left behind.")
        return 130
    took = time.monotonic() - stage.started
    stage.console.print(f"[bold green]Done[/] in {took:.1f} s; nothing is left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Runs a soak on a cluster of its own; see the package for why its failures are failures."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.scene import dangling
from tests.lab import leftovers, manifests
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.hosts import await_ready
from tests.lab.prober import Target, tcp
from tests.lab.waiting import wait_for
from tests.soak.changes import CHANGES_A_SECOND, Changes, Lives
from tests.soak.clients import Traffic, traffic
from tests.soak.paths import Path, paths_of
from tests.soak.sampling import Sample, generations, overflows, sample
from tests.soak.services import FAMILIES, PORTS, services_of
from tests.soak.verdict import KEEPING, Found, Result, is_over, table_bound

TRANSLATIONS = ("all", "host")
# a small table, of which two thirds are used at MOST_RATE: its records are used again all the time
MOST_RATE = 200.0
CONFIG = {
    "apiVersion": "pyproxy/v1alpha1",
    "kind": "PyproxyConfiguration",
    "connectionTable": {"maxEntries": 8192},
}
SAMPLE_S = 5.0
# what has been missed for longer than this is not made up for: agents would see all of it at once
ARREARS_S = 0.5
START_S = 20.0


@dataclass(frozen=True)
class Wanted:
    """How long, at which rate on each path, and which changes.

    A machine that is busy at times gets `patience` more, in seconds, for what these come to.
    """

    seconds: float
    rate: float = MOST_RATE
    seed: int = 0
    patience: float = 0.0


Progress = Callable[[str], None]


class Soak:
    """One soak on a running cluster."""

    def __init__(self, cluster: Cluster, wanted: Wanted, progress: Progress) -> None:
        self.cluster = cluster
        self.wanted = wanted
        self._progress = progress
        self._directory = cluster.directory / "manifests"
        services, mortal = services_of(cluster)
        self.paths = paths_of(cluster, services, mortal)
        self.changes = Changes(self._directory, services, wanted.seed)
        self.lives = Lives(self._directory, mortal)
        self.samples: list[Sample] = []
        self.agents: list[Agent] = []

    def run(self) -> Result:
        """Start all, soak, and return what was found."""
        self._start()
        at_rest = sample(self.agents, 0.0)
        before = [generations(agent, self.changes.names) for agent in self.agents]
        with traffic(self.paths, self.wanted.rate) as running:
            seconds = self._soak(running)
            self.changes.rest()
            self.lives.die()
        after = [generations(agent, self.changes.names) for agent in self.agents]
        result = self._result(running, seconds)
        ports = len(PORTS) * len(FAMILIES) * len(self.changes.names)
        for agent, first, last in zip(self.agents, before, after, strict=True):
            result.applied[agent.node.name] = (last - first) / ports
        self._settle(result, at_rest)
        return result

    def _start(self) -> None:
        nodes = [manifests.node(node) for node in self.cluster.nodes]
        manifests.write(self._directory, "nodes.json", *nodes)
        config = self.cluster.directory / "pyproxy.yaml"
        config.write_text(json.dumps(CONFIG))
        self.agents = [
            self.cluster.agent(node, f"--socket-translation={how}", f"--pyproxy-config={config}")
            for node, how in zip(self.cluster.nodes, TRANSLATIONS, strict=True)
        ]
        for agent in self.agents:
            agent.launch()
        self._serve()
        for agent in self.agents:
            agent.await_synced()
        for path in self.paths:
            for family in FAMILIES:
                self._await_answer(path, tcp(*path.destination("web", family)))

    def _await_answer(self, path: Path, to: Target) -> None:
        prober = path.client.prober
        wait_for(lambda: not prober.once(to).error, START_S, f"an answer: {path.name}")

    def _serve(self) -> None:
        """Start a server for each port of the services in each pod."""
        self.cluster.respond()
        started = []
        for pod in self.cluster.pods:
            for port, script in (("bulk", "echo.py"), ("dns", "datagrams.py")):
                started.append((pod.python(script, "serve", str(PORTS[port][2])), pod.name))
        for server, name in started:
            await_ready(server, name)

    def _soak(self, running: Traffic) -> float:
        """Change endpoints and take samples for as long as is wanted; return the seconds."""
        started = due = time.monotonic()
        sampled = 0.0
        while not is_over(
            self._result(running, at := time.monotonic() - started), self.wanted.patience
        ):
            self.changes.step()
            self.lives.step()
            if at >= sampled:
                self.samples.append(sample(self.agents, at))
                self._tell(running, at)
                sampled += SAMPLE_S
            now = time.monotonic()
            due = max(due + 1 / CHANGES_A_SECOND, now - ARREARS_S)
            time.sleep(max(0.0, due - now))
        return time.monotonic() - started

    def _tell(self, running: Traffic, at: float) -> None:
        ended = [client.name for client in running.clients if not client.running]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} has ended early (see stderr)")
        connections = sum(running.connections(path) for path in self.paths)
        failed = sum(len(running.failures(path)) for path in self.paths if path.asserted)
        held = running.held().values()
        used = self.samples[-1].used
        tables = sum(used[name] for name in used if name.endswith("connections"))
        rss = ", ".join(f"{mb:.0f}" for mb in self.samples[-1].rss_mb.values())
        self._progress(
            f"{at:4.0f} s: {connections} connections, {failed} failed; "
            f"{sum(each['datagrams'] for each in held)} datagrams, "
            f"{sum(each['lost'] for each in held)} lost; "
            f"{sum(each['bytes'] for each in held) / 1e6:.0f} MB; {self.changes.count} changes; "
            f"{tables} in the tables, agents {rss} MB"
        )

    def _result(self, running: Traffic, seconds: float) -> Result:
        held = running.held()
        return Result(
            seconds=round(seconds, 1),
            wanted_seconds=self.wanted.seconds,
            rate=self.wanted.rate,
            seed=self.wanted.seed,
            paths=[self._found(path, running, held) for path in self.paths],
            changes=self.changes.count,
            wanted_changes=self.wanted.seconds * CHANGES_A_SECOND,
            applied={},
            deaths=len(self.lives.deaths),
            samples=self.samples,
            bounds=self._bounds() if self.samples else {},
        )

    def _found(self, path: Path, running: Traffic, held: dict[str, Any]) -> Found:
        answers = running.answered(path)
        found = Found(path.name, path.asserted, running.connections(path), path.sticky)
        found.stayed = answers.pop(path.service.stays.name, 0)
        found.changing = sum(answers.pop(each.name, 0) for each in path.service.changing)
        found.foreign = dict(answers)
        found.failures, found.excused = self._judged(path, running.failures(path))
        for family in FAMILIES:
            each = held.get(path.label(family), {})
            found.bytes += each.get("bytes", 0)
            found.datagrams += each.get("datagrams", 0)
            found.lost += each.get("lost", 0)
            found.kept += each.get("failures", [])
        return found

    def _judged(
        self, path: Path, failures: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many failures had no reason, and how many had one, by what went wrong."""
        judged: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        for each in failures:
            excused = not path.asserted and self.lives.excuses(each["began"], each["at"])
            judged[excused][each["error"] if excused else f"{each['error']} at {each['step']}"] += 1
        return dict(judged[False]), dict(judged[True])

    def _bounds(self) -> dict[str, float]:
        """Return how many entries maps may have, by their names; see also _grown()."""
        bounds: dict[str, float] = {}
        for name, most in self.samples[-1].most.items():
            node, _, what = name.partition(" ")
            by_packets = sum(_on(path, node) for path in self.paths)
            sockets = 4 * len(self.paths)
            if what.endswith("connections"):
                bounds[name] = min(table_bound(by_packets, self.wanted.rate), most)
            elif what.endswith(KEEPING):
                bounds[name] = most
            elif what == "connected" or "udp" in what or what.endswith("affinity"):
                # asked by few sockets at a time, from few addresses
                bounds[name] = sockets
        return bounds

    def _settle(self, result: Result, at_rest: Sample) -> None:
        """Look at what is left when the traffic is over and all endpoints are back."""
        counted = at_rest.used

        def rested() -> bool:
            result.rest = at_rest, sample(self.agents, result.seconds)
            now = result.rest[1].used
            return all(now[name] == counted[name] for name in counted if name.endswith("members"))

        try:
            wait_for(rested, 5, "the endpoints to be back in the maps", 0.1)
        except TimeoutError as error:
            result.problems.append(str(error))
        for host in self.cluster.hosts:
            if lost := overflows(host):
                result.problems.append(
                    f"{host.name}: no room for {lost} datagrams: the lab's fault"
                )
        for agent in self.agents:
            name = agent.node.name
            result.problems += [f"{name}: {each}" for each in dangling(agent)]
            result.problems += [f"{name}: {each['message']}" for each in agent.status()["problems"]]


def _on(path: Path, node: str) -> bool:
    return path.packets is not None and path.packets.name == node


@contextmanager
def _cluster(progress: Progress) -> Iterator[Cluster]:
    with Cluster(nodes=2, pods_per_node=4) as cluster:
        try:
            yield cluster
        except Exception:
            progress("".join(agent.tail() for agent in cluster.agents))
            raise
    left = leftovers.traces(cluster.name)
    if left:
        raise RuntimeError(f"left behind: {', '.join(left)}")


def soak(wanted: Wanted, progress: Progress) -> Result:
    """Make a cluster, soak it, and return what was found; nothing of it is left."""
    with _cluster(progress) as cluster:
        return Soak(cluster, wanted, progress).run()

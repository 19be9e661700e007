# SPDX-License-Identifier: Apache-2.0
"""A cluster of network namespaces: nodes with pods, a lan, a client outside.

Everything is made when the context begins and is gone when it ends, failures, SIGINT and
SIGTERM included. What a SIGKILL leaves is removed by the next cluster (see leftovers.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import cgroups, leftovers, netns
from tests.lab.agent import Agent
from tests.lab.hosts import Host, Node, Pod, await_ready
from tests.lab.topology import NodeNet, PointToPoint, Wiring, plan_cluster

# Duplicate address detection would keep IPv6 addresses unusable for a second.
QUIET_IPV6 = {f"net/ipv6/conf/{which}/accept_dad": "0" for which in ("all", "default")}
FORWARDING = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
}
# The client answers from the service addresses that are routed to it (see topology.py).
OUTSIDE = {"net/ipv6/ip_nonlocal_bind": "1"}
# Where it does so: the ports that tests give to services, and one that they don't.
OUTSIDE_PORTS = (53, 80, 81, 8081)


class Cluster:
    """`nodes` nodes of `pods_per_node` pods, wired by `wiring`; use it in a `with` statement.

    `directory` holds manifests/ (all agents read it, as they would read one API server), logs
    and run directories; `nodes`, `pods` and `client` are where processes run.
    """

    def __init__(
        self, nodes: int = 2, pods_per_node: int = 3, wiring: Wiring | None = None
    ) -> None:
        self.plan = plan_cluster(nodes, pods_per_node)
        self.wiring = wiring or PointToPoint()
        self.nodes: list[Node] = []
        self.agents: list[Agent] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        leftovers.sweep()
        self._undo.enter_context(_termination_unwinds())
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pods(self) -> list[Pod]:
        """All pods, node by node."""
        return [pod for node in self.nodes for pod in node.pods]

    @property
    def hosts(self) -> list[Host]:
        """Everything that runs processes."""
        return [*self.nodes, *self.pods, self.client]

    def respond(self) -> None:
        """Start the responders of all pods and of the client; wait until all listen."""
        started = [(pod.respond(), pod.name) for pod in self.pods]
        started.append((self.client.respond(OUTSIDE_PORTS), self.client.name))
        for responder, name in started:
            await_ready(responder, name)

    def agent(self, node: Node, *options: str) -> Agent:
        """Return the agent of a node, not yet started; `options` go to `pyproxy run`."""
        agent = Agent(node, self.directory, self.bpffs / node.name, options)
        self.agents.append(agent)
        return agent

    def start_agents(self, *options: str) -> list[Agent]:
        """Start an agent on every node, all at once, and wait until they are synced."""
        agents = [self.agent(node, *options) for node in self.nodes]
        for agent in agents:
            agent.launch()
        for agent in agents:
            agent.await_synced()
        return agents

    def _make(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{leftovers.PREFIX}{os.getpid()}-"))
        self._undo.callback(shutil.rmtree, self.directory)
        self.name = self.directory.name
        for part in ("manifests", "bpf", "logs", "netns"):
            (self.directory / part).mkdir()
        self.bpffs = self.directory / "bpf"
        netns.mount("bpffs", self.bpffs, "bpf")
        self._undo.callback(netns.unmount, self.bpffs)
        self.cgroup = self._cgroup_root() / self.name
        self._undo.callback(cgroups.remove, self.cgroup)
        self._make_hosts()
        self._wire()

    def _cgroup_root(self) -> Path:
        found = cgroups.mounted_root()
        if found is not None:
            return found
        mounted = cgroups.mount_root(self.directory / "cgroup2")
        self._undo.callback(mounted.rmdir)
        self._undo.callback(netns.unmount, mounted)
        return mounted

    def _make_hosts(self) -> None:
        self._undo.callback(self._reap)
        self._namespace("lan", {})
        for net in self.plan.nodes:
            self.nodes.append(self._make_node(net))
        client = self.plan.client
        namespace = self._namespace(client.name, {**QUIET_IPV6, **OUTSIDE})
        cgroup = self._cgroup(client.name)
        self.client = Host(client.name, namespace, cgroup, client.ipv4, client.ipv6)

    def _make_node(self, net: NodeNet) -> Node:
        namespace = self._namespace(net.name, {**QUIET_IPV6, **FORWARDING})
        self._cgroup(f"{net.name}/host")
        node = Node(net.name, namespace, self.cgroup / net.name, net.ipv4, net.ipv6)
        for pod_net in net.pods:
            namespace = self._namespace(pod_net.name, QUIET_IPV6)
            cgroup = self._cgroup(f"{net.name}/{pod_net.name}")
            pod = Pod(pod_net.name, namespace, cgroup, pod_net.ipv4, pod_net.ipv6)
            pod.node_name = net.name
            node.pods.append(pod)
        return node

    def _namespace(self, name: str, sysctls: dict[str, str]) -> Path:
        path = self.directory / "netns" / name
        netns.create(path, sysctls)
        self._undo.callback(netns.unmount, path)
        return path

    def _cgroup(self, path: str) -> Path:
        cgroup = self.cgroup / path
        cgroup.mkdir(parents=True)
        return cgroup

    def _wire(self) -> None:
        wiring, plan = self.wiring, self.plan
        at = self.directory / "netns"
        _ip({at / "lan": wiring.lan(plan, at)})
        nodes = {at / node.name: wiring.node(plan, node, at) for node in plan.nodes}
        _ip({**nodes, at / plan.client.name: wiring.client(plan)})
        _ip({at / pod.name: wiring.pod(node, pod) for node in plan.nodes for pod in node.pods})

    def _reap(self) -> None:
        cgroups.kill(self.cgroup)
        for host in [*self.nodes, *self.pods]:
            host.reap()
        if hasattr(self, "client"):
            self.client.reap()

    def _end(self) -> None:
        with _deaf_to_signals():
            self._undo.close()


def _ip(texts: dict[Path, str]) -> None:
    """Run one `ip -batch` a namespace, all at once; raises RuntimeError with what ip said."""
    running = [(path, text, _start_ip(path)) for path, text in texts.items()]
    for path, text, process in running:
        _, said = process.communicate(text, timeout=30)
        if process.returncode != 0:
            raise RuntimeError(f"ip -batch in {path.name} failed: {said.strip()}\n{text}")


def _start_ip(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["nsenter", f"--net={path}", "ip", "-batch", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Let SIGTERM end the process through its `with` statements, as SIGINT does."""
    if not _in_main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    with _handled(leave, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Ignore a second Ctrl-C while everything is removed."""
    if not _in_main_thread():
        yield
        return
    with _handled(signal.SIG_IGN, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, object], None] | signal.Handlers, numbers: tuple[signal.Signals, ...]
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

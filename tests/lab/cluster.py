# SPDX-License-Identifier: Apache-2.0
"""A cluster of network namespaces: nodes with pods, a lan, hosts outside.

Everything is made when the context begins and is gone when it ends, failures, SIGINT and
SIGTERM included. What a SIGKILL leaves is removed by the next cluster (see leftovers.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import cgroups, leftovers, netns
from tests.lab.agent import Agent
from tests.lab.hosts import Host, Node, Pod, await_ready
from tests.lab.topology import (
    NodeNet,
    OutsideNet,
    PodNet,
    PointToPoint,
    Wiring,
    plan_cluster,
    pod_net,
)
from tests.lab.waiting import wait_for

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
    and run directories; `nodes`, `pods`, `client` and `stranger` are where processes run. The
    client catches what leaks out of a node, the stranger reaches services through the first
    node. `options` go to every agent.
    """

    def __init__(
        self,
        nodes: int = 2,
        pods_per_node: int = 3,
        wiring: Wiring | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.plan = plan_cluster(nodes, pods_per_node)
        self.wiring = wiring or PointToPoint()
        self.options = tuple(options)
        self.nodes: list[Node] = []
        self.agents: list[Agent] = []
        self._free: dict[str, Host] = {}
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
        return [*self.nodes, *self.pods, self.client, self.stranger]

    def free(self, host: Host) -> Host:
        """Return a node or pod as its processes are that no agent's cgroup holds.

        They have the same network, but no program sees their sockets: all goes by packets.
        """
        if host.name not in self._free:
            cgroup = self._cgroup(f"free/{host.name}")
            self._free[host.name] = Host(host.name, host.netns, cgroup, host.ipv4, host.ipv6)
        return self._free[host.name]

    @contextmanager
    def more_pods(self, node: Node, count: int) -> Iterator[list[Pod]]:
        """Give a node further pods, not yet plugged in; they are gone with the context."""
        plan = self._plan_of(node)
        number = self.plan.nodes.index(plan) + 1
        nets = [pod_net(number, len(node.pods) + k) for k in range(1, count + 1)]
        devices = {net.device for net in nets}
        with ExitStack() as undo:
            # the kernel takes a namespace's devices away some time after its last user
            undo.callback(wait_for, lambda: not devices & _devices(node), 10, "devices to go")
            pods = [self._make_pod(node, net, undo) for net in nets]
            node.pods += pods
            try:
                yield pods
            finally:
                del node.pods[-count:]
                for pod in pods:
                    self._end_pod(pod)

    def plug(self, node: Node, pods: Sequence[Pod]) -> None:
        """Make the devices that join pods to their node, all in one go."""
        plan, at = self._plan_of(node), self.directory / "netns"
        _ip({node.netns: "".join(self.wiring.plug(plan, pod.net, at) for pod in pods)})

    def configure(self, node: Node, pods: Sequence[Pod]) -> None:
        """Give pods that are plugged in their addresses and routes."""
        plan = self._plan_of(node)
        _ip({pod.netns: self.wiring.pod(plan, pod.net) for pod in pods})

    def respond(self) -> None:
        """Start the responders of all pods and of the client; wait until all listen."""
        started = [(pod.respond(), pod.name) for pod in self.pods]
        started.append((self.client.respond(OUTSIDE_PORTS), self.client.name))
        for responder, name in started:
            await_ready(responder, name)

    def agent(self, node: Node, *options: str) -> Agent:
        """Return the agent of a node, not yet started; `options` go to `pyproxy run` too."""
        agent = Agent(node, self.directory, self.bpffs / node.name, (*self.options, *options))
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
        # else an agent would take it for a container's, where all of this runs in one
        netns.share(self.bpffs)
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
        # it forwards where the wiring makes a router of it
        self._namespace("lan", {**QUIET_IPV6, **FORWARDING})
        for net in self.plan.nodes:
            self.nodes.append(self._make_node(net))
        self.client = self._make_outside(self.plan.client, OUTSIDE)
        self.stranger = self._make_outside(self.plan.stranger, {})

    def _make_outside(self, net: OutsideNet, sysctls: dict[str, str]) -> Host:
        namespace = self._namespace(net.name, {**QUIET_IPV6, **sysctls})
        return Host(net.name, namespace, self._cgroup(net.name), net.ipv4, net.ipv6)

    def _make_node(self, net: NodeNet) -> Node:
        namespace = self._namespace(net.name, {**QUIET_IPV6, **FORWARDING})
        self._cgroup(f"{net.name}/host")
        node = Node(net.name, namespace, self.cgroup / net.name, net.ipv4, net.ipv6)
        node.pods += [self._make_pod(node, pod, self._undo) for pod in net.pods]
        return node

    def _make_pod(self, node: Node, net: PodNet, undo: ExitStack) -> Pod:
        namespace = self._namespace(net.name, QUIET_IPV6, undo)
        return Pod(net, node.name, namespace, self._cgroup(f"{node.name}/{net.name}"))

    def _end_pod(self, pod: Pod) -> None:
        for host in (pod, self._free.pop(pod.name, None)):
            if host:
                cgroups.remove(host.cgroup)
                host.reap()

    def _plan_of(self, node: Node) -> NodeNet:
        return next(plan for plan in self.plan.nodes if plan.name == node.name)

    def _namespace(self, name: str, sysctls: dict[str, str], undo: ExitStack | None = None) -> Path:
        path = self.directory / "netns" / name
        netns.create(path, sysctls)
        own = undo or self._undo
        own.callback(path.unlink)
        own.callback(netns.unmount, path)
        return path

    def _cgroup(self, path: str) -> Path:
        cgroup = self.cgroup / path
        cgroup.mkdir(parents=True)
        return cgroup

    def _wire(self) -> None:
        wiring, plan = self.wiring, self.plan
        at = self.directory / "netns"
        _ip({at / "lan": wiring.lan(plan, at)})
        texts = {at / node.name: self._node_text(node, at) for node in plan.nodes}
        texts[self.client.netns] = wiring.client(plan)
        texts[self.stranger.netns] = wiring.stranger(plan)
        _ip(texts)
        _ip({at / pod.name: wiring.pod(node, pod) for node in plan.nodes for pod in node.pods})

    def _node_text(self, node: NodeNet, at: Path) -> str:
        plugs = [self.wiring.plug(node, pod, at) for pod in node.pods]
        return self.wiring.node(self.plan, node) + "".join(plugs)

    def _reap(self) -> None:
        cgroups.kill(self.cgroup)
        outside = [vars(self)[name] for name in ("client", "stranger") if name in vars(self)]
        for host in [*self.nodes, *self.pods, *self._free.values(), *outside]:
            host.reap()

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


def _devices(node: Node) -> set[str]:
    listed = netns.inside(node.netns, socket.if_nameindex)
    return {name for _, name in listed}


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

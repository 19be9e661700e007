# SPDX-License-Identifier: Apache-2.0
"""A cluster that others have made, with pyproxy on its nodes: the tests' own pods in it.

Everything is in a namespace of the tests' own: three pods on each of two nodes, which answer as
those of the lab do, and one more a node in the node's network, for its processes. All of them
run the lab's scripts out of a ConfigMap. The cluster has to be dual-stack.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.lab.hosts import PORTS, SCRIPTS, Host
from tests.lab.kubectl import Kubectl
from tests.lab.manifests import Object
from tests.lab.waiting import wait_for

IMAGE = "python:3.12-alpine"
NODES = 2
PODS_PER_NODE = 3
START_TIMEOUT_S = 180


class RealHost(Host):
    """A pod, or the one that stands for a node's processes; commands go by `kubectl exec`."""

    interpreter = ("python3", "-I", "-S")
    scripts = Path("/scripts")

    def __init__(self, kubectl: Kubectl, pod: str, name: str, addresses: Sequence[str]) -> None:
        ipv4, ipv6 = _by_family(name, addresses)
        super().__init__(name, Path(), Path(), ipv4, ipv6)
        self._kubectl = kubectl
        self._pod = pod

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs `argv` in the pod."""
        return self._kubectl.exec(self._pod, argv)


class RealNode(RealHost):
    """A node and the tests' pods on it."""

    def __init__(self, kubectl: Kubectl, pod: str, name: str, addresses: Sequence[str]) -> None:
        super().__init__(kubectl, pod, name, addresses)
        self.pods: list[RealHost] = []


class RealCluster:
    """The tests' namespace in a cluster; real_cluster() makes it."""

    def __init__(self, kubectl: Kubectl, image: str) -> None:
        self.kubectl = kubectl
        self.nodes: list[RealNode] = []
        self._image = image

    @property
    def pods(self) -> list[RealHost]:
        """All pods, node by node."""
        return [pod for node in self.nodes for pod in node.pods]

    def make(self, undo: ExitStack) -> None:
        """Make everything and wait until it runs; `undo` takes it away again."""
        nodes = [each for each in self.kubectl.get("nodes") if _is_schedulable(each)][:NODES]
        if len(nodes) < NODES:
            raise RuntimeError(f"the tests need {NODES} nodes that pods can be put on")
        name = self.kubectl.namespace
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        undo.callback(self.kubectl.delete, namespace)
        self.kubectl.apply(namespace)
        self.kubectl.apply(_scripts())
        names = [each["metadata"]["name"] for each in nodes]
        self.kubectl.apply(*self._pods(names))
        wait_for(self._all_run, START_TIMEOUT_S, "the tests' pods to run", interval_s=1)
        found = {each["metadata"]["name"]: each for each in self.kubectl.get("pods")}
        undo.callback(self._reap)
        for number, node in enumerate(nodes, 1):
            self._take(number, node, found)

    def _take(self, number: int, node: Any, found: dict[str, Any]) -> None:
        addresses = [
            each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"
        ]
        host = RealNode(self.kubectl, f"node{number}", node["metadata"]["name"], addresses)
        for k in range(1, PODS_PER_NODE + 1):
            name = f"pod{number}-{k}"
            given = [each["ip"] for each in found[name]["status"]["podIPs"]]
            pod = RealHost(self.kubectl, name, name, given)
            pod.node_name, pod.is_pod = host.name, True
            host.pods.append(pod)
        self.nodes.append(host)

    def _pods(self, nodes: Sequence[str]) -> list[Object]:
        made = []
        for number, node in enumerate(nodes, 1):
            made.append(self._pod(f"node{number}", node, ["sleep", "infinity"], host=True))
            for k in range(1, PODS_PER_NODE + 1):
                name = f"pod{number}-{k}"
                script, ports = str(RealHost.scripts / "respond.py"), ",".join(map(str, PORTS))
                command = [*RealHost.interpreter, script, name, ports]
                made.append(self._pod(name, node, command, host=False))
        return made

    def _pod(self, name: str, node: str, command: list[str], *, host: bool) -> Object:
        mount = {"name": "scripts", "mountPath": str(RealHost.scripts)}
        container = {
            "name": "main",
            "image": self._image,
            "command": command,
            "volumeMounts": [mount],
        }
        spec = {
            "nodeName": node,
            "hostNetwork": host,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    def _all_run(self) -> bool:
        pods = self.kubectl.get("pods")
        return all(_is_ready(each) for each in pods)

    def _reap(self) -> None:
        for host in (*self.nodes, *self.pods):
            for process in host.processes:
                process.kill()
            host.reap()


@contextmanager
def real_cluster(kubeconfig: Path, image: str = IMAGE) -> Iterator[RealCluster]:
    """Give the tests' namespace in a cluster; it is deleted afterwards."""
    cluster = RealCluster(Kubectl(kubeconfig, f"pyproxy-e2e-{os.getpid()}"), image)
    with ExitStack() as undo:
        cluster.make(undo)
        yield cluster


def _is_schedulable(node: Any) -> bool:
    """Return whether pods that tolerate everything can be put on a node."""
    return not node["spec"].get("unschedulable")


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _scripts() -> Object:
    data = {name: (SCRIPTS / name).read_text("utf-8") for name in ("probe.py", "respond.py")}
    metadata = {"name": "scripts"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _by_family(name: str, addresses: Sequence[str]) -> tuple[str, str]:
    """Return the first address of each family; both must be there."""
    found = {ip_address(each).version: each for each in reversed(addresses)}
    if found.keys() != {4, 6}:
        raise RuntimeError(f"{name} has {', '.join(addresses)}: the tests need both families")
    return found[4], found[6]

# SPDX-License-Identifier: Apache-2.0
"""Clusters of one wiring after the other, and how their nodes are set for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import Scene, running
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Pod, await_ready
from tests.lab.topology import PointToPoint, Wiring
from tests.lab.wirings import TUN, Tun


class Wires:
    """The cluster of the wiring that is tried: kinds of one wiring follow each other."""

    def __init__(self, make_cluster: MakeCluster, shared: Scene) -> None:
        self._make = make_cluster
        self._shared = shared
        self._wiring: Callable[[], Wiring] | None = None
        self._undo = ExitStack()

    def of(self, wiring: Callable[[], Wiring]) -> Scene:
        """Return two nodes with two pods each, or more."""
        if wiring is PointToPoint:
            return self._shared
        if wiring is not self._wiring:
            self.close()
            cluster = self._make(nodes=2, pods_per_node=2, wiring=wiring())
            self._scene = self._undo.enter_context(running(cluster))
            self._wiring = wiring
            if wiring is Tun:
                self._carry(cluster)
        return self._scene

    def _carry(self, cluster: Cluster) -> None:
        namespaces = [str(node.netns) for node in cluster.nodes]
        pump = cluster.client.python("pump.py", TUN, *namespaces)
        self._undo.callback(pump.kill)
        await_ready(pump, "the tunnel")

    def close(self) -> None:
        """Take the cluster away."""
        self._undo.close()


@contextmanager
def fast(scene: Scene) -> Iterator[None]:
    """Have all agents run with the fast path."""
    before = [agent.options for agent in scene.agents]
    for agent in scene.agents:
        agent.use_fast_path()
        agent.restart()
    yield
    for agent, options in zip(scene.agents, before, strict=True):
        agent.options = options
        agent.restart()


def set_hairpin(node: Host, pod: Pod, mode: str) -> None:
    """Say whether the bridge sends back to a port what comes from it: `on` or `off`."""
    words = ("type", "bridge_slave", "hairpin", mode)
    node.run("ip", "link", "set", pod.net.device, *words, check=True)

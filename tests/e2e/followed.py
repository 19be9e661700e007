# SPDX-License-Identifier: Apache-2.0
"""A cluster whose agents follow an API server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.apiserver.api import ApiServer
from tests.e2e.scene import Scene
from tests.lab.agent import Agent
from tests.lab.waiting import wait_for

ROOT = Path(__file__).parents[2]
PORT = 6443


class Followed:
    """A cluster whose agents follow an API server on the outside host."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.cluster = cluster = scene.cluster
        # after failures the agents ask ever less often
        self.scene.patience_s = 30.0
        self.process = self._serve()
        wait_for(self._control.exists, 20, "the API server's control socket")
        self.api = ApiServer.at(self._control)
        self._put_nodes()
        kubeconfig = self.api.kubeconfig(cluster.directory / "kubeconfig")
        self._restart(f"--kubeconfig={kubeconfig}")

    @property
    def _control(self) -> Path:
        return self.cluster.directory / "api.sock"

    def _serve(self) -> subprocess.Popen[bytes]:
        address = self.cluster.client.address(4)
        listen = ["--listen", f"{address}:{PORT}", "--control", str(self._control)]
        return self.cluster.client.popen(
            sys.executable, "-m", "tests.apiserver", *listen, "--until-stdin-closes",
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip

    def _put_nodes(self) -> None:
        for node in self.cluster.nodes:
            addresses = [{"type": "InternalIP", "address": node.address(4)}]
            meta = {"name": node.name}
            body = {"apiVersion": "v1", "kind": "Node", "metadata": meta}
            self.api.put(body | {"status": {"addresses": addresses}})

    def _restart(self, source: str) -> None:
        for agent in self.scene.agents:
            agent.stop()
            agent.source = source
            agent.launch()
        for agent in self.scene.agents:
            agent.await_synced()

    def close(self) -> None:
        """End the API server by itself, so that it takes its certificates with it."""
        self._restart(f"--manifests={self.scene.directory}")
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)

    def problems(self, agent: Agent) -> list[str]:
        """Return the messages of `pyproxy status` about the API server."""
        found = agent.status()["problems"]
        return [each["message"] for each in found if each["code"] == "source-unreadable"]

    def await_away(self, agent: Agent) -> None:
        """Wait until status says that the API server is away, and since when."""
        wait_for(lambda: bool(self.problems(agent)), 20, "status to say that the server is away")
        assert "since 20" in self.problems(agent)[0]

    def await_back(self, agent: Agent) -> None:
        """Wait until status says so no longer."""
        wait_for(lambda: not self.problems(agent), 40, "status to say that the server is back")

# SPDX-License-Identifier: Apache-2.0
"""Agents that follow an API server: what it says counts, what it fails to say loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.apiserver.api import ApiServer
from tests.e2e.scene import Scene
from tests.lab.agent import Agent
from tests.lab.waiting import wait_for

ROOT = Path(__file__).parents[2]
PORT = 6443
PROGRAMMED_WITHIN_S = 0.5
SERVICE_CIDRS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "kubernetes"},
}
NFTABLES = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
"""


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


@pytest.fixture(scope="module")
def followed(own: Scene) -> Iterator[Followed]:
    """Two nodes, their agents, and the API server that these follow."""
    made = Followed(own)
    yield made
    made.close()


def test_services_of_the_api_server_work(followed: Followed) -> None:
    """Every kind of socket reaches the pods of a service that was created by the API."""
    scene, pods = followed.scene, followed.cluster.pods
    app = scene.app("api")
    followed.api.put(app.service(), *app.slices(pods))
    scene.await_backends(app, pods)
    for to in app.every_target():
        outcome = pods[0].prober.once(to)
        assert not outcome.error, f"{to}: {outcome}"
    followed.api.delete("Service", "default", app.name)
    scene.await_answers(pods[0], app.tcp(4), [followed.cluster.client])


def test_a_change_of_a_slice_takes_effect_at_once(followed: Followed) -> None:
    """From the event on the watch to the new backend: the bound is generous, the bench measures."""
    scene, pods = followed.scene, followed.cluster.pods
    app = scene.app("fast")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])
    for number in range(1, 11):
        pod = pods[number % 2]
        started = time.monotonic()
        followed.api.put(app.slice(4, [pod]))
        scene.await_answers(pods[0], app.tcp(4), [pod])
        assert time.monotonic() - started < PROGRAMMED_WITHIN_S


def test_an_api_server_that_is_down_loses_nothing(followed: Followed) -> None:
    """Services go on, status says since when, and what changed meanwhile is taken up by itself."""
    scene, pods, agent = followed.scene, followed.cluster.pods, followed.scene.agents[0]
    app = scene.app("down")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])
    followed.api.stop()
    followed.await_away(agent)
    assert agent.healthz() == 200
    assert pods[1].prober.once(app.tcp(4)).who == pods[0].name
    followed.api.put(*app.slices(pods[1:2]))
    followed.api.start()
    scene.await_backends(app, pods[1:2])
    followed.await_back(agent)


def test_sequence_apiserver_restart(followed: Followed) -> None:
    """Not one request to an old service fails while the server restarts; new ones come after."""
    scene, pods = followed.scene, followed.cluster.pods
    old, new = scene.app("old"), scene.app("new")
    followed.api.put(old.service(), *old.slices(pods[:1]))
    scene.await_backends(old, pods[:1])
    streams = {"tcp": old.tcp(4), "udp": old.udp(6)}
    for name, to in streams.items():
        pods[1].prober.start(name, to)
    followed.api.stop()
    followed.await_away(followed.scene.agents[0])
    followed.api.start()
    followed.api.put(new.service(), *new.slices(pods[1:2]))
    scene.await_backends(new, pods[1:2])
    scene.await_backends(old, pods[:1])
    for name in streams:
        outcomes = pods[1].prober.stop(name)
        assert {(each.who, each.error) for each in outcomes} == {(pods[0].name, "")}, name


def test_an_agent_that_starts_while_the_server_is_down(followed: Followed) -> None:
    """What was programmed goes on, and status says why nothing new comes."""
    scene, pods, agent = followed.scene, followed.cluster.pods, followed.scene.agents[0]
    app = scene.app("downatstart")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])
    followed.api.stop()
    agent.stop()
    agent.launch()
    followed.await_away(agent)
    status = agent.status()
    assert status["agent"]["pid"] == agent.pid
    assert {"not-synced", "source-unreadable"} == {each["code"] for each in status["problems"]}
    assert pods[1].prober.once(app.tcp(4)).who == pods[0].name
    followed.api.start()
    agent.await_synced()
    followed.await_back(agent)


def test_a_history_that_begins_anew_loses_nothing(followed: Followed) -> None:
    """After a restored backup of etcd the objects are listed again; what is gone goes."""
    scene, pods = followed.scene, followed.cluster.pods
    stays, goes = scene.app("stays"), scene.app("goes")
    for app in (stays, goes):
        followed.api.put(app.service(), *app.slices(pods[:1]))
        scene.await_backends(app, pods[:1])
    followed.api.stop()
    followed.api.delete("Service", "default", goes.name)
    followed.api.compact()
    followed.api.start()
    scene.await_answers(pods[1], goes.tcp(4), [followed.cluster.client])
    assert pods[1].prober.once(stays.tcp(4)).who == pods[0].name


def test_a_token_that_is_rotated_on_disk_is_taken_up(followed: Followed) -> None:
    """The old one gets 401, the same process reads on with the new one."""
    scene, pods = followed.scene, followed.cluster.pods
    pids = [agent.pid for agent in scene.agents]
    followed.api.rotate_token()
    followed.api.kubeconfig(followed.cluster.directory / "kubeconfig")
    followed.api.cut_watches()
    app = scene.app("token")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])
    assert [agent.pid for agent in scene.agents if agent.running] == pids


def test_nftables_mode_gets_on_without_service_cidrs(followed: Followed, agent: Agent) -> None:
    """It is healthy, names a right that is missing, and has no problem where there are none.

    What is sent to an address of no service gets out of the node until the agent knows them.
    """
    api, scene, pod = followed.api, followed.scene, followed.cluster.pods[0]
    nobody = replace(scene.app("nobody").tcp(4), timeout_s=0.5)
    api.put({**SERVICE_CIDRS, "spec": {"cidrs": ["10.96.0.0/16"]}})
    assert not api.asked("servicecidrs", "list"), "no other mode asks"
    config = followed.cluster.directory / "nftables.yaml"
    config.write_text(NFTABLES)
    agent.options = (*agent.options, f"--config={config}")
    api.forbid("servicecidrs")
    agent.restart()
    wait_for(lambda: bool(followed.problems(agent)), 10, "status to name the right")
    assert '"networking.k8s.io" by a ClusterRole' in followed.problems(agent)[0]
    scene.await_answers(pod, nobody, [followed.cluster.client])
    api.permit("servicecidrs")
    followed.await_back(agent)
    scene.await_error(pod, nobody, "TIMEOUT")
    api.delete("ServiceCIDR", "", "kubernetes")
    scene.await_answers(pod, nobody, [followed.cluster.client])
    api.withdraw("servicecidrs")
    api.forbid("servicecidrs")
    agent.restart()
    assert agent.status()["problems"] == []

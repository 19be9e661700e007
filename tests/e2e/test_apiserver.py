# SPDX-License-Identifier: Apache-2.0
"""Agents that follow an API server: what it says counts, what it fails to say loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.e2e.followed import Followed
from tests.e2e.scene import Scene
from tests.lab import manifests
from tests.lab.agent import Agent
from tests.lab.waiting import wait_for

# where objects come from has nothing to do with what translates
pytestmark = pytest.mark.once

PROGRAMMED_WITHIN_S = 0.5
EVENTS_WITHIN_S = 45.0  # each node waits half a minute at most
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


def test_a_port_that_is_not_served_gets_an_event(followed: Followed) -> None:
    """SCTP with a changed port: one Event for all nodes, in the words of `status`."""
    api, scene, pods = followed.api, followed.scene, followed.cluster.pods
    app = scene.app("sctp")
    name = f"default/{app.name}:sctp/SCTP"
    service = manifests.service(
        app.name, app.addresses, [manifests.port(80, "SCTP", name="sctp", target=8080)]
    )
    endpoints = [manifests.endpoint(pods[0], 4)]
    ports = [manifests.slice_port(8080, "SCTP", name="sctp")]
    api.put(service, manifests.endpoint_slice(app.name, 4, endpoints, ports))

    def posted() -> bool:
        sent = api.asked("events", "create")
        return sorted(one.status for one in sent) == [201, 409]

    wait_for(posted, EVENTS_WITHIN_S, "both agents to post")
    (event,) = api.events
    assert (event["type"], event["reason"]) == ("Warning", "PortNotServed")
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Service", app.name)
    assert event["regarding"]["uid"]
    assert name in event["note"]
    for agent in scene.agents:
        (problem,) = agent.status()["problems"]
        assert (problem["code"], problem["message"]) == ("not-served", event["note"])
        assert agent.healthz() == 200
    assert event["reportingInstance"] in [agent.node.name for agent in scene.agents]
    api.delete("Service", "default", app.name)
    wait_for(lambda: not any(one.status()["problems"] for one in scene.agents), 10, "no problem")


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

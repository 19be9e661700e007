# SPDX-License-Identifier: Apache-2.0
"""Agents that follow an API server: what it says counts, what it fails to say loses nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.followed import Followed
from tests.e2e.scene import Scene
from tests.e2e.successor import Successor
from tests.lab import deployed, manifests, netns
from tests.lab.agent import Agent
from tests.lab.asked import get
from tests.lab.waiting import wait_for

# where objects come from has nothing to do with what translates
pytestmark = pytest.mark.once

PROGRAMMED_WITHIN_S = 0.5
EVENTS_WITHIN_S = 45.0  # each node waits half a minute at most, while no Event has failed
SERVICE_CIDRS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "kubernetes"},
}
TAKEN = 10300
HARD_FAIL = f"""
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddressHardFail: true
healthzBindAddress: 0.0.0.0:{TAKEN}
"""
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

    before = len(api.asked("events", "create"))

    def of_services() -> list[dict[str, Any]]:
        return [one for one in api.events if one["regarding"]["kind"] == "Service"]

    def posted() -> bool:
        # a node may yet be saying that it has started: that is nobody else's Event
        sent = [one.status for one in api.asked("events", "create")[before:]]
        return sent.count(409) == 1 and bool(of_services())

    wait_for(posted, EVENTS_WITHIN_S, "both agents to post")
    (event,) = of_services()
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


def test_nodes_say_that_they_have_started(followed: Followed) -> None:
    """As kube-proxy does, at once; `kubectl describe node` shows it."""

    def started() -> set[str]:
        found = [one for one in followed.api.events if one["reason"] == "Starting"]
        return {one["regarding"]["name"] for one in found if one["type"] == "Normal"}

    names = {node.name for node in followed.cluster.nodes}
    wait_for(lambda: started() == names, 10, "both nodes' Events")


def test_a_node_that_is_deleted_is_left_out_by_load_balancers(followed: Followed) -> None:
    """Who the API server does not know is not eligible (1.36), and lives on."""
    node, agent = followed.cluster.nodes[0], followed.scene.agents[0]
    followed.api.delete("Node", "", node.name)
    wait_for(lambda: agent.healthz() == 503, 10, "/healthz to answer 503")
    assert get(node, "127.0.0.1", 10256, "/livez").status == 200
    followed.api.put(manifests.node(node))
    wait_for(lambda: agent.healthz() == 200, 10, "/healthz to answer 200")


def test_an_address_in_use_ends_an_agent_that_is_told_so(followed: Followed, agent: Agent) -> None:
    """bindAddressHardFail: status 1, an Event on the Node; services go on."""
    config = followed.cluster.directory / "hard.yaml"
    config.write_text(HARD_FAIL)
    agent.stop()
    agent.options = (*agent.options, f"--config={config}")
    with closing(netns.inside(agent.node.netns, lambda: socket.create_server(("", TAKEN)))):
        agent.launch()
        wait_for(lambda: not agent.running, 30, "the agent to end")
    assert agent.process is not None
    assert agent.process.returncode == 1
    last = f"failed to start proxy healthz on 0.0.0.0:{TAKEN}: Address already in use"
    assert last in agent.tail(5)
    said = {one["reason"]: one["note"] for one in followed.api.events if one["type"] == "Warning"}
    assert said["FailedToStartProxierHealthcheck"] == last


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


def test_an_agent_that_takes_over_has_read_everything(followed: Followed, agent: Agent) -> None:
    """Also what has changed while it waited: it serves without an API server, if need be."""
    scene, pods = followed.scene, followed.cluster.pods
    app = scene.app("handover")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])
    with Successor(scene, agent) as new:
        new.await_prepared()
        # what it writes is what it knows: the other agent's word does not count
        followed.api.put(*app.slices(pods[1:2]))
        scene.await_backends(app, pods[1:2])
        followed.api.stop()
        new.takes_over(agent.kill)
        scene.await_answers(pods[0], app.tcp(4), pods[1:2])
        followed.await_away(new.agent)
        assert new.probe()[0] == 0
        followed.api.start()
        followed.await_back(new.agent)
    followed.api.delete("Service", "default", app.name)


def test_the_role_in_deploy_is_what_agents_ask(followed: Followed, agent: Agent) -> None:
    """Not more and not less, in the mode that asks for most."""
    config = followed.cluster.directory / "nftables.yaml"
    config.write_text(NFTABLES)
    agent.options = (*agent.options, f"--config={config}")
    before = len(followed.api.requests)
    agent.restart()

    def asked() -> set[tuple[str, str, str]]:
        # who asks what there is asks for no resource, which everybody may
        found = [one for one in followed.api.requests if one.resource]
        return {(_group(one.path), one.resource, one.verb) for one in found}

    allowed = {
        (group, resource, verb)
        for rule in deployed.objects()["ClusterRole/pyproxy"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    wait_for(lambda: asked() >= allowed, 10, f"{sorted(allowed - asked())} to be asked", 0.05)
    assert asked() == allowed
    assert len(followed.api.requests) > before


def _group(path: str) -> str:
    """Return the API group of a path, "" for the core's."""
    return path.split("/")[2] if path.startswith("/apis/") else ""

# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's multi-step behaviours of services: `sequences` of tests/flows/kube-proxy.yaml."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tests.e2e.scene import FAMILIES, App, Scene
from tests.e2e.sequences import (
    by_each_family,
    by_each_way,
    client_by,
    expect_members,
    names,
    node_port,
    with_node_ports,
)
from tests.lab.hosts import Host, Pod, await_ready
from tests.lab.manifests import (
    NOT_READY,
    READY,
    TERMINATING,
    Object,
    port,
    service,
    slice_port,
)
from tests.lab.manifests import endpoint as endpoint_of
from tests.lab.manifests import endpoint_slice as slice_of
from tests.lab.prober import Prober, Target, answered, tcp
from tests.lab.waiting import wait_for

DRAWS = 15
STICKY = {
    "sessionAffinity": "ClientIP",
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10_800}},
}
LOOSE = {"sessionAffinity": "None"}
SERVER_PORT = 7070  # where the servers of a deployment listen, which come and go
ROUND = 20  # conversations of a client that are seen between two acts


def _await_sticky(prober: Prober, to: Target, pods: Sequence[Pod]) -> str:
    """Wait until so many connections in a row reach one of the pods, and return its name."""
    those, impatient = {pod.name for pod in pods}, replace(to, timeout_s=0.2)
    found: set[str] = set()

    def settled() -> bool:
        found.clear()
        # what was on its way before there was a service may fail
        found.update(answered(prober.draw(impatient, DRAWS)))
        return len(found) == 1 and found <= those

    wait_for(settled, 5, f"one of {sorted(those)} alone to answer {to}")
    return found.pop()


@by_each_way
@by_each_family
def test_sequence_affinity_basic(scene: Scene, way: str, family: int) -> None:
    """One client has one pod, by ClusterIP and NodePort; without affinity it has all of them."""
    app, pods = scene.app("sticky"), scene.cluster.pods[1:4]
    client = client_by(way, scene, scene.cluster.pods[0])
    cluster_ip, own_node = app.tcp(family), node_port("TCP", scene.cluster.nodes[0], family)

    def put(affinity: Object) -> None:
        scene.put(f"{app.name}.json", with_node_ports(app, **affinity), *app.slices(pods))

    put(STICKY)
    chosen = _await_sticky(client.prober, cluster_ip, pods)
    assert names(client.prober.draw(cluster_ip, DRAWS)) == {chosen}
    assert names(client.prober.draw(own_node, DRAWS)) == {chosen}
    put(LOOSE)
    scene.await_answers(client, cluster_ip, pods)
    put(STICKY)
    chosen = _await_sticky(client.prober, cluster_ip, pods)
    assert names(client.prober.draw(own_node, DRAWS)) == {chosen}
    scene.drop(f"{app.name}.json")


@by_each_way
@by_each_family
def test_sequence_affinity_endpoint_removed(scene: Scene, way: str, family: int) -> None:
    """A client whose pod is removed gets another and stays there; what is open goes on."""
    app, pods = scene.app("leaving"), scene.cluster.pods[1:4]
    client = client_by(way, scene, scene.cluster.pods[0])
    prober, to = client.prober, app.tcp(family)
    scene.put(f"{app.name}.json", app.service(**STICKY), *app.slices(pods))
    first = _await_sticky(prober, to, pods)
    prober.open("held", to)
    assert names(prober.ask("held", to)) == {first}
    rest = [pod for pod in pods if pod.name != first]
    scene.put(f"{app.name}.json", app.service(**STICKY), *app.slices(rest))
    wait_for(lambda: prober.once(to).who != first, 5, f"{first} to get nothing new")
    second = prober.once(to).who
    assert second in {pod.name for pod in rest}
    assert names(prober.draw(to, DRAWS)) == {second}
    assert names(prober.ask("held", to, 3)) == {first}
    prober.close("held")


@by_each_way
def test_sequence_clusterip_recreated(scene: Scene, way: str) -> None:
    """A service that is deleted and made again works again; another is not disturbed."""
    app, other = scene.app("again"), scene.app("beside")
    pods = scene.cluster.pods[1:4]
    client = client_by(way, scene, scene.cluster.pods[0])
    scene.run(app, pods)
    scene.run(other, pods)
    streams = {"tcp": other.tcp(4), "udp": other.udp(6)}
    with _undisturbed(client, streams):
        for _ in range(3):
            scene.drop(f"{app.name}.json")
            for family in FAMILIES:
                # the lab's outside host answers at addresses that are nobody's
                scene.await_answers(client, app.tcp(family), [scene.cluster.client])
                scene.await_answers(client, app.udp(family), [scene.cluster.client])
            scene.put(f"{app.name}.json", app.service(), *app.slices(pods))
            for family in FAMILIES:
                scene.await_answers(client, app.tcp(family), pods)
                scene.await_answers(client, app.udp(family), pods)
        _await_round(client.prober, streams)


@by_each_way
@by_each_family
def test_sequence_ports_added_removed(scene: Scene, way: str, family: int) -> None:
    """A port that is added works beside the first; the first, deleted, is not handled any more."""
    app, pods = scene.app("ports"), scene.cluster.pods[1:4]
    client = client_by(way, scene, scene.cluster.pods[0])
    first, second = app.tcp(family), tcp(app.address(family), 81)

    def put(*numbers: int) -> None:
        ports = [port(number, name=f"p{number}") for number in numbers]
        targets = [slice_port(8080, name=f"p{number}") for number in numbers]
        endpoints = [endpoint_of(pod, family) for pod in pods]
        made = slice_of(app.name, family, endpoints, targets)
        scene.put(f"{app.name}.json", service(app.name, app.addresses, ports), made)

    put(80)
    scene.await_answers(client, first, pods)
    scene.await_answers(client, second, [scene.cluster.client])
    put(80, 81)
    scene.await_answers(client, second, pods)
    scene.await_answers(client, first, pods)
    put(81)
    scene.await_answers(client, first, [scene.cluster.client])
    scene.await_answers(client, second, pods)


@by_each_way
@by_each_family
def test_sequence_type_changes(scene: Scene, way: str, family: int) -> None:
    """From ExternalName to ClusterIP to NodePort and back, each with what its type has."""
    app, pods = scene.app("types"), scene.cluster.pods[1:4]
    client = client_by(way, scene, scene.cluster.pods[0])
    cluster_ip, own_node = app.tcp(family), node_port("TCP", scene.cluster.nodes[0], family)
    slices = app.slices(pods)
    steps: list[tuple[Object, bool, bool]] = [
        (app.service(type="ExternalName", externalName="example.org"), False, False),
        (app.service(), True, False),
        (with_node_ports(app), True, True),
        (app.service(), True, False),
        (app.service(type="ExternalName", externalName="example.org"), False, False),
        (with_node_ports(app), True, True),
    ]
    for made, has_address, has_node_port in steps:
        scene.put(f"{app.name}.json", made, *slices)
        # the lab's outside host answers at addresses that are nobody's
        scene.await_answers(client, cluster_ip, pods if has_address else [scene.cluster.client])
        if has_node_port:
            scene.await_answers(client, own_node, pods)
        else:
            scene.await_error(client, own_node, "ECONNREFUSED")
    scene.drop(f"{app.name}.json")


def test_sequence_zero_downtime_blue_green(scene: Scene) -> None:
    """Every pod is replaced, each by one that became ready before: not one request fails."""
    rollout = Rollout(scene, scene.app("rolled"))
    blue, green = scene.cluster.pods[1:3], scene.cluster.pods[4:6]
    rollout.begin(blue)
    sockets, packets = (_undisturbed(client, rollout.streams) for client in rollout.clients)
    with sockets, packets:
        rollout.replace(blue, green)
        rollout.replace(green, blue)
    rollout.end()


class Rollout:
    """A deployment whose pods are replaced, and clients that ask it all the time."""

    def __init__(self, scene: Scene, app: App) -> None:
        self.scene = scene
        self.app = app
        pod = scene.cluster.pods[0]
        self.clients = [client_by(way, scene, pod) for way in ("sockets", "packets")]
        kinds = [app.tcp(4), app.tcp(6), app.udp(4), app.udp(6), app.udp(4, connected=True)]
        self.streams = {f"stream{n}": to for n, to in enumerate(kinds)}
        self._state: dict[Pod, Object] = {}
        self._servers: dict[Pod, subprocess.Popen[bytes]] = {}

    def begin(self, pods: Sequence[Pod]) -> None:
        """Have these pods, ready."""
        for pod in pods:
            self._serve(pod)
        self._put(dict.fromkeys(pods, READY))
        for client in self.clients:
            for to in self.streams.values():
                self.scene.await_answers(client, to, pods)

    def replace(self, before: Sequence[Pod], after: Sequence[Pod]) -> None:
        """Replace each pod: the new one is ready first, the old one ends after it has left."""
        for old, new in zip(before, after, strict=True):
            self._serve(new)
            for pod, condition in ((new, NOT_READY), (new, READY), (old, TERMINATING)):
                self._put({pod: condition})
                self._await_rounds()
            del self._state[old]
            self._put({})
            # its grace period: it ends when nobody can be on the way to it any more
            self._await_rounds()
            self._stop(old)
            self._await_rounds()

    def end(self) -> None:
        """End the servers."""
        for pod in list(self._servers):
            self._stop(pod)

    def _put(self, changed: dict[Pod, Object]) -> None:
        """Write the pods, each in its condition, and wait until the maps say so."""
        self._state |= changed
        ports = [slice_port(SERVER_PORT, name="web"), slice_port(SERVER_PORT, "UDP", name="dns")]
        slices = [
            slice_of(
                self.app.name,
                family,
                [endpoint_of(pod, family, each) for pod, each in self._state.items()],
                ports,
            )
            for family in FAMILIES
        ]
        self.scene.put(f"{self.app.name}.json", self.app.service(), *slices)
        serving = {pod: each is READY for pod, each in self._state.items() if each != NOT_READY}
        expect_members(self.scene, self.app, serving)

    def _await_rounds(self) -> None:
        for client in self.clients:
            _await_round(client.prober, self.streams)

    def _serve(self, pod: Pod) -> None:
        self._servers[pod] = pod.respond([SERVER_PORT])
        await_ready(self._servers[pod], pod.name)

    def _stop(self, pod: Pod) -> None:
        server = self._servers.pop(pod)
        server.kill()
        server.wait()


@contextmanager
def _undisturbed(client: Host, streams: dict[str, Target]) -> Iterator[None]:
    """Make new conversations while the block runs; assert that none of them has failed."""
    prober = client.prober
    for name, to in streams.items():
        prober.start(name, to)
    try:
        _await_round(prober, streams)
        yield
    finally:
        outcomes = {name: prober.stop(name) for name in streams}
    for name, found in outcomes.items():
        assert [each for each in found if each.error] == [], (client.name, name)


def _await_round(prober: Prober, streams: dict[str, Target]) -> None:
    """Wait until each stream has had so many conversations more."""
    goals = {name: prober.seen(name)[0] + ROUND for name in streams}
    for name, goal in goals.items():
        wait_for(lambda n=name, g=goal: prober.seen(n)[0] >= g, 20, f"{goal} of {name}")  # type: ignore[misc]  # mypy can't infer a lambda with defaults

# SPDX-License-Identifier: Apache-2.0
"""Which endpoints count, and how soon a change does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import pytest

from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab.hosts import Host
from tests.lab.manifests import (
    NOT_READY,
    READY,
    TERMINATING,
    Object,
    endpoint,
    endpoint_slice,
    port,
    service,
    slice_port,
)
from tests.lab.manifests import node as node_of
from tests.lab.prober import Outcome, tcp
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.anywhere

CHANGES = 30


def _mixed(app: App, conditions: Sequence[tuple[Host, Object]]) -> list[Object]:
    ports = [slice_port(8080, name="web"), slice_port(8080, "UDP", name="dns")]
    return [
        endpoint_slice(app.name, f, [endpoint(pod, f, c) for pod, c in conditions], ports)
        for f in (4, 6)
    ]


def test_only_ready_endpoints_are_used(scene: Scene) -> None:
    """Terminating and unready endpoints get nothing while a ready one exists."""
    a, b, c = scene.cluster.pods[:3]
    app = scene.app("ready")
    mixed = _mixed(app, [(a, READY), (b, TERMINATING), (c, NOT_READY)])
    scene.put("ready.json", app.service(), *mixed)
    scene.await_backends(app, [a])


def test_terminating_endpoints_serve_when_none_is_ready(scene: Scene) -> None:
    """KEP-1669: serving terminating endpoints take over, and give back to a ready one."""
    a, b, c = scene.cluster.pods[3:6]
    app = scene.app("ending")
    scene.put("ending.json", app.service(), *_mixed(app, [(a, READY), (b, TERMINATING)]))
    scene.await_backends(app, [a])
    terminating = [(a, TERMINATING), (b, TERMINATING), (c, NOT_READY)]
    scene.put("ending.json", app.service(), *_mixed(app, terminating))
    scene.await_backends(app, [a, b])
    scene.put("ending.json", app.service(), *_mixed(app, [(b, TERMINATING), (c, READY)]))
    scene.await_backends(app, [c])


def test_endpoints_of_several_slices_add_up(scene: Scene) -> None:
    """A service has the endpoints of all of its slices, each once; a removed slice's leave."""
    a, b, c = scene.cluster.pods[:3]
    app = scene.app("sliced")
    scene.put("sliced-service.json", app.service())
    for suffix, pods in (("a", [a, b]), ("b", [b, c])):
        slices = [app.slice(family, pods, suffix=suffix) for family in (4, 6)]
        scene.put(f"sliced-{suffix}.json", *slices)
    scene.await_backends(app, [a, b, c])
    scene.drop("sliced-b.json")
    scene.await_backends(app, [a, b])


def test_named_ports_go_to_their_own_targets(scene: Scene) -> None:
    """Ports are matched by name: the same port name may be another number in another slice."""
    a, b = scene.cluster.pods[0], scene.cluster.pods[5]
    app = scene.app("named")
    ports = [port(80, name="web"), port(81, name="admin")]
    first = [slice_port(8080, name="web"), slice_port(9090, name="admin")]
    second = [slice_port(9090, name="web")]
    scene.put(
        "named.json",
        service(app.name, [app.ipv4], ports),
        endpoint_slice(app.name, 4, [endpoint(a, 4)], first, "a"),
        endpoint_slice(app.name, 4, [endpoint(b, 4)], second, "b"),
    )
    client = scene.cluster.pods[2]
    scene.await_answers(client, tcp(app.ipv4, 80), [a, b])
    scene.await_answers(client, tcp(app.ipv4, 81), [a])


def test_families_have_their_own_endpoints(scene: Scene) -> None:
    """A dual-stack service may have endpoints in one family only."""
    pod = scene.cluster.pods[3]
    app = scene.app("half")
    scene.put("half.json", app.service(), app.slice(6, [pod]))
    client = scene.cluster.pods[0]
    scene.await_answers(client, app.tcp(6), [pod])
    scene.await_error(client, app.tcp(4), "ECONNREFUSED")
    scene.await_error(client, app.tcp(46), "ECONNREFUSED")


def test_process_of_a_node_can_be_the_endpoint(scene: Scene) -> None:
    """A host-network endpoint has its node's address."""
    node = scene.cluster.nodes[1]
    responder = node.respond([7070])
    assert responder.stdout
    assert responder.stdout.readline() == b"ready\n"
    try:
        app = scene.app("hostnet")
        slices = [app.slice(family, [node], number=7070) for family in (4, 6)]
        scene.put("hostnet.json", app.service(), *slices)
        scene.await_backends(app, [node])
    finally:
        responder.kill()
        responder.wait()


@pytest.fixture(scope="module")
def latencies(scene: Scene) -> list[float]:
    """How many ms each of 30 changes from one backend to the other took to reach a new client."""
    pods = scene.cluster.pods[1], scene.cluster.pods[4]
    app = scene.app("swap")
    scene.run(app, [pods[0]])
    client = scene.cluster.pods[0]
    return [_swap(scene, app, client, pods[n % 2], pods[(n + 1) % 2]) for n in range(CHANGES)]


def _swap(scene: Scene, app: App, client: Host, old: Host, new: Host) -> float:
    client.prober.start("swap", app.tcp(4))
    wait_for(lambda: client.prober.seen("swap")[0] > 0, 5, "the stream to flow")
    changed = time.monotonic()
    scene.put(f"{app.name}.json", app.service(), *app.slices([new]))
    wait_for(lambda: client.prober.seen("swap")[1] == {new.name}, 5, f"only {new.name}")
    outcomes = client.prober.stop("swap")
    _expect_one_step(outcomes, old.name, new.name)
    return 1000 * (next(o.at for o in outcomes if o.who == new.name) - changed)


def _expect_one_step(outcomes: list[Outcome], old: str, new: str) -> None:
    """No connection fails, and none reaches the old backend after the new one was reached."""
    whos = [outcome.who for outcome in outcomes]
    switch = whos.index(new)
    assert set(whos[:switch]) <= {old}
    assert set(whos[switch:]) == {new}


@pytest.mark.lab
def test_changed_slice_takes_effect_within_milliseconds(latencies: list[float]) -> None:
    """A changed file reaches new connections: median at most 10 ms, the slowest 100 ms."""
    assert statistics.median(latencies) <= 10, latencies
    assert max(latencies) <= 100, latencies


@pytest.mark.lab
def test_the_zone_of_a_node_takes_effect_at_once(scene: Scene) -> None:
    """Zone hints follow the label of the own Node; without it, or its Node, all are used (A5.5)."""
    app, node = scene.app("zones"), scene.cluster.nodes[0]
    near, far = scene.cluster.pods[:2]
    slices: list[Object] = []
    for pod, zone in ((near, "zone-a"), (far, "zone-b")):
        for family in FAMILIES:
            made = app.slice(family, [pod], suffix=zone)
            made["endpoints"][0]["hints"] = {"forZones": [{"name": zone}]}
            slices.append(made)
    scene.put("zones.json", app.service(), *slices)
    for zone, wanted in (
        ("", [near, far]),
        ("zone-a", [near]),
        ("zone-b", [far]),
        ("zone-c", [near, far]),
        ("zone-a", [near]),
    ):
        own = node_of(node)
        own["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone
        scene.put("zones-node.json", own)
        for family in FAMILIES:
            scene.await_answers(node, app.tcp(family), wanted)
    scene.drop("zones-node.json")
    scene.await_answers(node, app.tcp(), [near, far])
    scene.drop("zones.json")

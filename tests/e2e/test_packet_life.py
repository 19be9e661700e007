# SPDX-License-Identifier: Apache-2.0
"""Connections of the packet path through changes of endpoints, and beside direct traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest

from tests.e2e.scene import FAMILIES, App, Scene, counters, members
from tests.lab.capture import ICMP, Capture
from tests.lab.hosts import Host, Pod
from tests.lab.manifests import READY, TERMINATING, Object
from tests.lab.prober import Prober, Target, answered, tcp, udp
from tests.lab.waiting import wait_for

SOURCE_PORT = 5000
# of the range that is routed at node1
EXTERNAL = {4: "10.96.0.243", 6: "fd00:10:96::f3"}
REDIRECTS = {4: 5, 6: 137}  # RFC 792, RFC 4861 4.5


@pytest.fixture(scope="module")
def client(scene: Scene) -> Host:
    """A pod's process outside of the agent's cgroup."""
    return scene.cluster.free(scene.cluster.nodes[0].pods[0])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> int:
    """Of the service's address."""
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def pair(scene: Scene) -> tuple[Pod, Pod]:
    """A backend on the client's node and one on the other."""
    here, there = scene.cluster.nodes
    return here.pods[1], there.pods[1]


def _change(scene: Scene, app: App, ready: Pod, ending: tuple[Pod, ...] = ()) -> None:
    """Leave one ready endpoint, and others that end, and wait until the maps say so."""
    slices: list[Object] = []
    for family in FAMILIES:
        slices.append(app.slice(family, [ready], READY, "a"))
        slices.append(app.slice(family, ending, TERMINATING, "b"))
    scene.put(f"{app.name}.json", app.service(), *slices)
    for family in FAMILIES:
        wanted = {(pod.address(family), pod is ready) for pod in (ready, *ending)}
        wait_for(
            lambda f=family, w=wanted: members(scene.agents[0], f, app.name) == w,  # type: ignore[misc]  # mypy can't infer a lambda with defaults
            5,
            f"{wanted} in the maps of node1",
        )


@pytest.mark.parametrize("which", [0, 1], ids=["same-node", "other-node"])
@pytest.mark.parametrize("way", ["packets", "as-the-setting-says"])
def test_sequence_established_tcp_survives_endpoint_removal(
    scene: Scene, pair: tuple[Pod, Pod], family: int, which: int, way: str
) -> None:
    """TCP stays while its backend ends and after it has left; new connections go elsewhere."""
    old, new = pair[which], pair[1 - which]
    app, pod = scene.app("held"), scene.cluster.nodes[0].pods[0]
    scene.run(app, [old])
    client = scene.cluster.free(pod) if way == "packets" else pod
    prober, to = client.prober, app.tcp(family)
    assert prober.open("held", to).error == ""
    for ending in ((old,), ()):
        _change(scene, app, new, ending)
        assert answered(prober.ask("held", to, 3)) == {old.name: 3}
        assert answered(prober.draw(to, 10)) == {new.name: 10}
    scene.drop(f"{app.name}.json")
    wait_for(lambda: not members(scene.agents[0], to.family, app.name), 5, "no service")
    assert answered(prober.ask("held", to, 3)) == {old.name: 3}
    prober.close("held")


@pytest.mark.parametrize("way", ["packets", "as-the-setting-says"])
def test_held_datagrams_move_when_their_endpoint_leaves(
    scene: Scene, pair: tuple[Pod, Pod], family: int, way: str
) -> None:
    """rule_18: they stay while it only ends, and go elsewhere when it is no endpoint any more."""
    old, new = pair
    app, pod = scene.app("moved"), scene.cluster.nodes[0].pods[0]
    scene.run(app, [old])
    client = scene.cluster.free(pod) if way == "packets" else pod
    prober, to = client.prober, app.udp(family)
    prober.open("held", to)
    assert answered(prober.ask("held", to, 3)) == {old.name: 3}
    _change(scene, app, new, (old,))
    assert answered(prober.ask("held", to, 3)) == {old.name: 3}
    _change(scene, app, new)
    assert answered(prober.ask("held", to, 3)) == {new.name: 3}
    prober.close("held")


class Single(NamedTuple):
    """An application of one pod, and how it is asked for by family."""

    app: App
    pod: Pod
    addresses: Mapping[int, str]


# with an external IP a far backend sees an address of the node, and a near one the client
@pytest.fixture(
    scope="module",
    params=[(0, False), (1, False), (1, True)],
    ids=["same-node", "other-node", "other-node-by-external-ip"],
)
def single(request: pytest.FixtureRequest, scene: Scene, pair: tuple[Pod, Pod]) -> Single:
    """An application of one pod, near or far, and far behind an address of the node."""
    which, hidden = request.param
    app = scene.app("clash")
    addresses = EXTERNAL if hidden else dict(zip(FAMILIES, app.addresses, strict=True))
    scene.run(app, [pair[which]], externalIPs=list(EXTERNAL.values()) if hidden else [])
    return Single(app, pair[which], addresses)


def _pair_of(single: Single, family: int, protocol: str) -> dict[str, Target]:
    """Return a service and its only backend as destinations from one source port."""
    direct = single.pod.address(family)
    if protocol == "tcp":
        found = {"service": single.app.tcp(family), "direct": tcp(direct, 8080)}
    else:
        service = single.app.udp(family, connected=True)
        found = {"service": service, "direct": udp(direct, 8080, connected=True)}
    found["service"] = replace(found["service"], address=single.addresses[family])
    return {name: replace(to, source_port=_source_port(protocol)) for name, to in found.items()}


def _source_port(protocol: str) -> int:
    return SOURCE_PORT + (protocol == "udp")


def _expect(prober: Prober, name: str, to: Target, pod: Pod) -> None:
    for outcome in prober.ask(name, to, 3):
        assert (outcome.who, outcome.error) == (pod.name, ""), name


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("order", [("direct", "service"), ("service", "direct")], ids="-".join)
def test_rule_04_one_port_to_a_service_and_to_its_backend(
    client: Host, single: Single, family: int, protocol: str, order: tuple[str, str]
) -> None:
    """Both work at the same time, whichever began, and again when they have gone idle."""
    targets, prober = _pair_of(single, family, protocol), client.prober
    for name in order:
        opened = prober.open(name, targets[name])
        assert opened.error == "", (name, opened)
        _expect(prober, name, targets[name], single.pod)
    for name in (*order, *reversed(order)):
        _expect(prober, name, targets[name], single.pod)
    for name in order:
        prober.close(name)


def test_rule_19_one_socket_to_two_services_and_a_pod(
    scene: Scene, client: Host, pair: tuple[Pod, Pod], family: int
) -> None:
    """Each answer shows the address that its own question was sent to."""
    first, second = scene.app("first"), scene.app("second")
    scene.run(first, pair)
    slices = [second.slice(f, pair, number=9090) for f in FAMILIES]
    scene.put(f"{second.name}.json", second.service(), *slices)
    scene.await_backends(second, pair)
    direct = udp(pair[1].address(family), 8080)
    prober = client.prober
    prober.open("many", direct)
    for _ in range(5):
        for to in (first.udp(family), second.udp(family), direct):
            outcome = prober.ask("many", to)[0]
            assert outcome.error == "", to
            assert outcome.source == f"{to.address} {to.port}"
    prober.close("many")


def test_rule_10_an_untranslated_service_address_does_not_leave_the_node(
    scene: Scene, pair: tuple[Pod, Pod], family: int
) -> None:
    """A process of the node outside of its cgroup gets no answer, and its packets are counted."""
    app, node = scene.app("leak"), scene.cluster.nodes[0]
    scene.run(app, pair)
    free = scene.cluster.free(node)
    for to in (app.tcp(family, 0.3), app.udp(family, connected=True, timeout_s=0.3)):
        before = counters(scene.agents[0], family)
        with Capture(scene.cluster.client) as wire:
            assert free.prober.once(to).error == "TIMEOUT"
            assert not [p for p in wire.take() if p.destination in app.addresses]
        assert (counters(scene.agents[0], family) - before)["packet_leak"] >= 1


def test_rule_02_no_redirect_reaches_a_pod_that_dials_itself(
    scene: Scene, client: Host, family: int
) -> None:
    """The node routes its packets back to where they came from, and would tell it so."""
    app, pod = scene.app("mirror"), scene.cluster.nodes[0].pods[0]
    scene.run(app, [pod])
    before = counters(scene.agents[0], family)
    with Capture(pod) as wire:
        for to in (app.tcp(family), app.udp(family)):
            assert answered(client.prober.draw(to, 5)) == {pod.name: 5}
        redirects = [
            p for p in wire.take()
            if p.protocol == ICMP[family] and p.family == family and p.icmp[0] == REDIRECTS[family]
        ]  # fmt: skip
    assert redirects == []
    assert (counters(scene.agents[0], family) - before)["packet_redirect"] >= 1

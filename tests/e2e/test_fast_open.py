# SPDX-License-Identifier: Apache-2.0
"""TCP Fast Open through services: what comes with a SYN arrives with it (RFC 7413)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.scene import FAMILIES, App, Scene
from tests.e2e.sequences import by_each_family, by_each_way, client_by, expect_members
from tests.lab import firewalls
from tests.lab.hosts import Host, Pod, await_ready
from tests.lab.manifests import service

NODE_PORT = 31_186
# One for each test: a pod that remembers what one way asked (TIME_WAIT) takes no SYN of another.
PORTS = itertools.count(7786)
TIMES = 4
BOTH_ENDS = "3"  # net.ipv4.tcp_fastopen: clients and servers; it holds for IPv6, too


@contextmanager
def opening(*hosts: Host) -> Iterator[None]:
    """Allow it on hosts for a while."""
    name = "net/ipv4/tcp_fastopen"
    for host in hosts:
        firewalls.set_sysctl(host, name, BOTH_ENDS)
    try:
        yield
    finally:
        for host in hosts:
            firewalls.set_sysctl(host, name, "1")


@contextmanager
def served(scene: Scene, app: App, pod: Pod, family: int) -> Iterator[None]:
    """Run a service of type NodePort with one endpoint, which takes data with a SYN."""
    number = next(PORTS)
    server = pod.python("quick.py", "serve", pod.name, pod.address(family), str(number))
    await_ready(server, "the server")
    port = {"name": "web", "port": 80, "targetPort": number, "nodePort": NODE_PORT}
    made = service(app.name, app.addresses, [port], type="NodePort")
    slices = [app.slice(each, [pod], number=number) for each in FAMILIES]
    scene.put(f"{app.name}.json", made, *slices)
    expect_members(scene, app, {pod: True})
    try:
        yield
    finally:
        scene.drop(f"{app.name}.json")
        server.kill()
        server.wait(10)


def ask(client: Host, address: str, port: int) -> list[dict[str, object]]:
    """Ask one time after the other."""
    said = client.script("quick.py", "ask", address, str(port), str(TIMES))
    assert said.returncode == 0, said.stderr
    answers: list[dict[str, object]] = json.loads(said.stdout)
    return answers


@by_each_way
@by_each_family
@pytest.mark.parametrize("place", [0, 1], ids=["same-node", "other-node"])
def test_data_goes_with_the_syn(scene: Scene, way: str, family: int, place: int) -> None:
    """Of every connection but the first one, which asks for the cookie; by ClusterIP."""
    pod, app = scene.cluster.nodes[place].pods[1], scene.app("quick")
    client = client_by(way, scene, scene.cluster.nodes[0].pods[0])
    with opening(client, pod), served(scene, app, pod, family):
        answers = ask(client, app.address(family), 80)
    assert {each["answer"] for each in answers} == {f"{pod.name} data"}
    assert [each["why"] for each in answers[1:] if not each["in_syn"]] == []


@by_each_family
@pytest.mark.parametrize("place", [0, 1], ids=["same-node", "other-node"])
def test_data_goes_with_the_syn_through_source_nat(scene: Scene, family: int, place: int) -> None:
    """By NodePort from outside: a backend on another node gives the cookie to this one."""
    node, app = scene.cluster.nodes[0], scene.app("quick")
    pod, client = scene.cluster.nodes[place].pods[1], scene.cluster.client
    with opening(client, pod), served(scene, app, pod, family):
        answers = ask(client, node.address(family), NODE_PORT)
    assert {each["answer"] for each in answers} == {f"{pod.name} data"}
    assert [each["why"] for each in answers[1:] if not each["in_syn"]] == []

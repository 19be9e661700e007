# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's multi-step behaviours that connection tracking is about (parity A14, A9.13)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.datapath import packets
from tests.e2e.scene import FAMILIES, App, Scene
from tests.e2e.sequences import (
    await_same_socket,
    by_each_family,
    by_each_way,
    client_by,
    expect_members,
    names,
    node_port,
    with_node_ports,
)
from tests.lab import netns
from tests.lab.capture import RST, Capture, Packet
from tests.lab.hosts import Host, Pod, await_ready
from tests.lab.manifests import NOT_READY, READY, TERMINATING
from tests.lab.waiting import wait_for

SOURCE_PORT = 6000
SECOND_PORT = 7071
STRAYS = 20
LOCAL = {"internalTrafficPolicy": "Local"}


def _cycle(scene: Scene, app: App, old: Pod, new: Pod, **spec: object) -> None:
    """Add the new server pod, then delete the old one."""
    for pods in ([old, new], [new]):
        scene.put(f"{app.name}.json", with_node_ports(app, **spec), *app.slices(pods))
        expect_members(scene, app, dict.fromkeys(pods, True))


@by_each_way
@by_each_family
@pytest.mark.parametrize("to", ["cluster-ip", "node-port", "local", "host-network"])
def test_sequence_udp_server_pod_cycles(scene: Scene, way: str, family: int, to: str) -> None:
    """Datagrams from one port reach the new pod: of one socket, connected or not, and of new ones.

    A connected one of the node itself is told that its backend has left. By ClusterIP, by NodePort,
    with internalTrafficPolicy Local, and from a node's own process.
    """
    if (way, to) == ("packets", "host-network"):
        way = "sockets"  # a node's own processes have no other way
    here, there = scene.cluster.nodes
    old, new = (here.pods[1], here.pods[2] if to == "local" else there.pods[1])
    spec = LOCAL if to == "local" else {}
    app = scene.app("cycles")
    client = client_by(way, scene, here if to == "host-network" else here.pods[0])
    prober = client.prober
    address = node_port("UDP", here, family) if to == "node-port" else app.udp(family)
    kept = replace(address, source_port=SOURCE_PORT, timeout_s=0.5)
    fresh = replace(address, source_port=SOURCE_PORT + 1, connected=True)
    held = replace(kept, source_port=SOURCE_PORT + 2, connected=True)
    scene.put(f"{app.name}.json", with_node_ports(app, **spec), *app.slices([old]))
    # an answer of the outside host to this port, if it came late, would let more pass (rule 3)
    scene.await_answers(client, address, [old])
    prober.open("kept", kept)
    assert not prober.open("held", held).error
    for pod in (old, new):
        if pod is new:
            _cycle(scene, app, old, new, **spec)
        await_same_socket(prober, "kept", kept, pod.name)
        if (pod, to) == (new, "host-network"):
            assert prober.ask("held", held)[0].error == "EDESTADDRREQ"
        else:
            await_same_socket(prober, "held", held, pod.name)
        assert names(prober.ask("kept", kept, 3) + prober.draw(fresh, 3)) == {pod.name}
    for name in ("kept", "held"):
        prober.close(name)
    scene.drop(f"{app.name}.json")


@by_each_way
@by_each_family
@pytest.mark.parametrize("to", ["cluster-ip", "node-port"])
def test_sequence_udp_unready_then_ready(scene: Scene, way: str, family: int, to: str) -> None:
    """Who sends while no endpoint is ready reaches the one that becomes so, by the same socket."""
    here, there = scene.cluster.nodes
    pod, app = there.pods[1], scene.app("unready")
    client = client_by(way, scene, here.pods[0])
    prober = client.prober
    address = node_port("UDP", here, family) if to == "node-port" else app.udp(family)
    kept = replace(address, source_port=SOURCE_PORT, timeout_s=0.2)
    scene.put(f"{app.name}.json", with_node_ports(app), *app.slices([pod], NOT_READY))
    scene.await_error(client, app.tcp(family), "ECONNREFUSED")
    prober.open("kept", kept)
    try:
        assert {each.who for each in prober.ask("kept", kept, 5)} == {""}
        scene.put(f"{app.name}.json", with_node_ports(app), *app.slices([pod]))
        await_same_socket(prober, "kept", kept, pod.name)
        assert names(prober.ask("kept", kept, 3)) == {pod.name}
    finally:
        prober.close("kept")
        scene.drop(f"{app.name}.json")


@by_each_way
@by_each_family
@pytest.mark.parametrize("to", ["cluster-ip", "node-port"])
def test_sequence_udp_target_port_changes(scene: Scene, way: str, family: int, to: str) -> None:
    """The pod stays and its port changes: the same socket reaches the pod's second container."""
    here, there = scene.cluster.nodes
    pod, app = there.pods[1], scene.app("target")
    client = client_by(way, scene, here.pods[0])
    prober = client.prober
    address = node_port("UDP", here, family) if to == "node-port" else app.udp(family)
    kept = replace(address, source_port=SOURCE_PORT, timeout_s=0.5)
    second = pod.python("respond.py", "second", str(SECOND_PORT))
    await_ready(second, "second")
    prober.open("kept", kept)
    try:
        for number, container in ((8080, pod.name), (SECOND_PORT, "second")):
            slices = [app.slice(f, [pod], number=number) for f in FAMILIES]
            scene.put(f"{app.name}.json", with_node_ports(app), *slices)
            if number == 8080:
                # as above
                scene.await_answers(client, address, [pod])
            await_same_socket(prober, "kept", kept, container)
            assert names(prober.ask("kept", kept, 3)) == {container}
    finally:
        second.kill()
        second.wait()
        prober.close("kept")
        scene.drop(f"{app.name}.json")


@by_each_way
@by_each_family
def test_sequence_udp_flow_to_serving_terminating(scene: Scene, way: str, family: int) -> None:
    """What flows to a pod that ends but serves stays there; new flows go to the ready one."""
    ending, ready = (node.pods[1] for node in scene.cluster.nodes)
    app = scene.app("draining")
    scene.run(app, [ending])
    prober, to = client_by(way, scene, scene.cluster.pods[0]).prober, app.udp(family)
    prober.open("kept", to)
    assert names(prober.ask("kept", to, 3)) == {ending.name}
    slices = [app.slice(f, [ending], TERMINATING, "a") for f in FAMILIES]
    slices += [app.slice(f, [ready], READY, "b") for f in FAMILIES]
    scene.put(f"{app.name}.json", app.service(), *slices)
    expect_members(scene, app, {ending: False, ready: True})
    wait_for(lambda: names(prober.draw(to, 15)) == {ready.name}, 5, "new flows to go elsewhere")
    assert names(prober.ask("kept", to, 5)) == {ending.name}
    prober.close("kept")


@by_each_way
@by_each_family
@pytest.mark.parametrize("which", [0, 1], ids=["same-node", "other-node"])
def test_sequence_invalid_conntrack_rst(scene: Scene, way: str, family: int, which: int) -> None:
    """Segments out of the window, in both directions of it, do not make the client reset."""
    server, app = scene.cluster.nodes[which].pods[1], scene.app("stray")
    scene.run(app, [server])
    client = client_by(way, scene, scene.cluster.nodes[0].pods[0])
    prober, to = client.prober, app.tcp(family)
    try:
        with Capture(client) as near, Capture(server) as far:
            assert not prober.open("held", to).error
            assert names(prober.ask("held", to)) == {server.name}
            last = far.find(lambda p: _is_answer(p, server, family), "an answer of the server")
            strays = _strays(last)
            _inject(server, family, strays)
            # the client's kernel challenges what it does not expect (RFC 5961), or says nothing
            translated = way == "packets" or scene.by_packets(client)
            shown = (app if translated else server).address(family)
            # another port than the backend sees, if somebody has that one towards it (rule 5)
            asked = near.find(lambda p: _begins(p, shown), "the client's SYN")
            _await_strays(near, (shown, asked.ports[0]), len(strays))
            assert names(prober.ask("held", to, 10)) == {server.name}
            here, there = {shown, asked.source}, {last.source, last.destination}
            resets = [p for p in near.take() if _is_reset(p, here, asked.ports[0]) and p.leaves]
            assert resets == []
            assert [p for p in far.take() if _is_reset(p, there, last.ports[1])] == []
    finally:
        prober.close("held")


def _is_tcp(packet: Packet) -> bool:
    return packet.protocol == socket.IPPROTO_TCP


def _is_reset(packet: Packet, addresses: set[str], port: int) -> bool:
    """Say whether a segment resets this connection; those of earlier tests may end so."""
    mine = _is_tcp(packet) and {packet.source, packet.destination} == addresses
    return bool(mine and port in packet.ports and packet.flags & RST)


def _begins(packet: Packet, to: str) -> bool:
    mine = packet.leaves and _is_tcp(packet) and packet.destination == to
    return bool(mine and packet.flags & packets.SYN)


def _is_answer(packet: Packet, server: Host, family: int) -> bool:
    """Say whether a segment carries what the server has answered."""
    mine = packet.leaves and _is_tcp(packet) and packet.source == server.address(family)
    return mine and server.name.encode() in packet.data


def _strays(answer: Packet) -> list[bytes]:
    """Return segments of the same connection, from far before the window to far behind it."""
    kind = socket.AF_INET if answer.family == 4 else socket.AF_INET6
    source, destination = (
        packets.End(socket.inet_pton(kind, address), number)
        for address, number in zip((answer.source, answer.destination), answer.ports, strict=True)
    )
    sequence, acknowledged = answer.sequence
    return [
        packets.tcp(
            source,
            destination,
            packets.ACK | packets.PSH,
            b"stray",
            seq=(sequence + step * 100_000_000) % 2**32,
            ack=acknowledged,
        )
        for step in range(-STRAYS // 2, STRAYS // 2 + 1)
        if step
    ]


def _inject(server: Host, family: int, segments: Sequence[bytes]) -> None:
    """Send whole packets from the server's namespace."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with netns.inside(
        server.netns, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ) as raw:
        for each in segments:
            offset, size = (16, 4) if family == 4 else (24, 16)
            raw.sendto(each, (socket.inet_ntop(kind, each[offset : offset + size]), 0))


def _await_strays(near: Capture, ends: tuple[str, int], count: int) -> None:
    """Wait until the client's device has had all strays, as the connection's own segments.

    `ends` are where they come from, and the client's port.
    """

    def arrived() -> bool:
        mine = [p for p in near.take() if _is_tcp(p) and not p.leaves and b"stray" in p.data]
        assert {(p.source, p.ports[1]) for p in mine} <= {ends}
        return len(mine) == count

    wait_for(arrived, 5, f"{count} strays to arrive")

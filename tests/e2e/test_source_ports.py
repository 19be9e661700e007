# SPDX-License-Identifier: Apache-2.0
"""Short connections through source NAT to one backend elsewhere never run out of ports."""

from __future__ import annotations

import json
import math
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.build import build_tools
from tests.e2e.scene import FAMILIES, Scene, counters
from tests.lab import netns
from tests.lab.hosts import Host
from tests.lab.manifests import service
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

SECONDS = 20
WINDOW_S = 0.25
NODE_PORT, SERVER_PORT = 31_181, 7779
# of 10,000 connections a second, each would have its port for so long before another one has it
PORTS = 65_536 - 1_024
RATE = 10_000
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The load tools."""
    return build_tools(tmp_path_factory.mktemp("tools"))


@pytest.fixture
def rapid(scene: Scene, tools: dict[str, Path]) -> Iterator[None]:
    """A service with a NodePort and a fast backend on the second node; the first one is asked."""
    pod = scene.cluster.nodes[1].pods[2]
    servers = [
        pod.popen(tools["server"], "tcp", address, str(SERVER_PORT), "s", "-1",
                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for address in (pod.ipv4, pod.ipv6)
    ]  # fmt: skip
    made = scene.app("rapid")
    port = {"name": "web", "port": 80, "targetPort": SERVER_PORT, "nodePort": NODE_PORT}
    slices = [made.slice(family, [pod], number=SERVER_PORT) for family in FAMILIES]
    scene.put("rapid.json", service(made.name, made.addresses, [port], type="NodePort"), *slices)
    yield
    scene.drop("rapid.json")
    for each in servers:
        each.kill()
        each.wait(10)


class Client:
    """The load tool on the outside host, which connects, asks and resets again and again."""

    def __init__(self, host: Host, tool: Path, address: str) -> None:
        self._process = host.popen(
            tool, "tcp-connect", address, str(NODE_PORT), "-1",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, seconds: float) -> int:
        """Return how many connections were made; a single failure ends the tool, and the test."""
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._process.stdin.write(f"{round(seconds * 1000)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return int(json.loads(line)["operations"])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)


def answers(client: Host, address: str) -> bool:
    """Return whether the NodePort leads to a server yet."""

    def connect() -> bool:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(1)
            return not sock.connect_ex((address, NODE_PORT))

    return netns.inside(client.netns, connect)


class Faces:
    """Addresses of the outside host, by which it looks like many clients to a node."""

    def __init__(self, client: Host, to: str) -> None:
        self._client, self._to = client, to
        (found,) = json.loads(self._ip("-j", "route", "get", to))
        self._device = found["dev"]
        self._wide = 128 if ":" in to else 32

    def show(self, number: int) -> None:
        """Ask from another address from now on."""
        address = f"2001:db8:99::{number:x}" if ":" in self._to else f"198.51.100.{number}"
        self._ip("addr", "replace", f"{address}/{self._wide}", "dev", "lo", "nodad")
        self._ip("route", "replace", self._to, "dev", self._device, "src", address)

    def hide(self) -> None:
        """Be one client again."""
        self._ip("route", "del", self._to, "dev", self._device)

    def _ip(self, *words: str) -> str:
        done = self._client.run("ip", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


def reserve(node: Host, first: int) -> None:
    """Leave ports from here on to nobody."""
    text = f"{first}-65535\n"
    netns.inside(node.netns, lambda: RESERVED.write_text(text, encoding="ascii"))


@pytest.mark.usefixtures("rapid")
@pytest.mark.parametrize("family", FAMILIES)
def test_ports_are_enough_for_many_short_connections(
    scene: Scene, tools: dict[str, Path], family: int
) -> None:
    """As if there were 10,000 a second: fewer ports are left where this machine makes fewer."""
    node, client = scene.cluster.nodes[0], scene.cluster.client
    wait_for(lambda: answers(client, node.address(family)), 5, "an answer")
    load, faces = (
        Client(client, tools["client"], node.address(family)),
        Faces(client, node.address(family)),
    )
    made = 0
    try:
        rate = load.run(1.0)
        many = min(math.ceil(PORTS * rate / RATE), PORTS - 1)
        reserve(node, 1_024 + many)
        # whatever changes lets the agent look at the sysctl at once
        scene.put("rapid-again.json", scene.app("again").service())
        before = counters(scene.agents[0], family)
        for number in range(1, round(SECONDS / WINDOW_S) + 1):
            faces.show(number)
            made += load.run(WINDOW_S)
    finally:
        faces.hide()
        load.close()
        netns.inside(node.netns, lambda: RESERVED.write_text("\n", encoding="ascii"))
    scene.drop("rapid-again.json")
    grown = counters(scene.agents[0], family) - before
    assert made > rate * SECONDS / 4
    # hardly any client comes again from the same port
    assert grown["packet_source"] > 0.9 * made
    assert grown["source_taken"]
    assert grown["source_exhausted"] == grown["table_full"] == grown["insert_failed"] == 0
    print(f"{made} connections in {SECONDS} s by {many} ports, {grown['source_taken']} taken")

# SPDX-License-Identifier: Apache-2.0
"""ICMP errors on the wire: a router between all hosts that forwards 1,280 bytes to most of them.

Every host sends 1,500 bytes until it is told. A connection whose errors get lost on the way
stands still with its first full segment.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene, counters, dangling, running
from tests.lab.capture import ICMP, Capture, Packet, parse
from tests.lab.hop import MTU, ROUTER, Hop
from tests.lab.hosts import Host, await_ready
from tests.lab.manifests import endpoint, endpoint_slice, service, slice_port
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

NODE_PORT, ECHO_PORT = 31_180, 7778
DATAGRAM_PORT = 7779
BULK = 3_000_000
TOO_BIG = {4: (3, 4), 6: (2, 0)}
TOO_OLD = {4: (11, 0), 6: (3, 0)}
TOLD_S = "0.4"  # the first datagrams are always lost: this is waited for each of them
PATHS = ("pod-elsewhere", "outside-elsewhere", "outside-here", "pod-node-port")


@pytest.fixture(scope="module")
def far(make_cluster: MakeCluster) -> Iterator[Scene]:
    """Two nodes with two pods each, and the router."""
    with running(make_cluster(nodes=2, pods_per_node=2, wiring=Hop())) as found:
        yield found
        for agent in found.agents:
            assert dangling(agent) == []


@pytest.fixture(scope="module")
def backend(far: Scene) -> Host:
    """A pod of the second node."""
    return far.cluster.nodes[1].pods[1]


@pytest.fixture(scope="module")
def echo(far: Scene, backend: Host) -> App:
    """An application of one pod that gives back what it gets."""
    made = far.app("echoing")
    ports, given = [], []
    for name, protocol, number, target, script in (
        ("web", "TCP", 80, ECHO_PORT, "echo.py"),
        ("dns", "UDP", 53, DATAGRAM_PORT, "datagrams.py"),
    ):
        await_ready(backend.python(script, "serve", str(target)), backend.name)
        ports.append({
            "name": name, "protocol": protocol, "port": number,
            "targetPort": target, "nodePort": NODE_PORT,
        })  # fmt: skip
        given.append(slice_port(target, protocol, name=name))
    slices = [
        endpoint_slice(made.name, family, [endpoint(backend, family)], given) for family in FAMILIES
    ]
    far.put("echo.json", service(made.name, made.addresses, ports, type="NodePort"), *slices)
    return made


def paths(far: Scene, app: App, family: int) -> dict[str, tuple[Host, str, int]]:
    """Return who asks what, by name; all by packets."""
    one, two = far.cluster.nodes
    return {
        "pod-elsewhere": (far.cluster.free(one.pods[0]), app.address(family), 80),
        "outside-elsewhere": (far.cluster.client, one.address(family), NODE_PORT),
        "outside-here": (far.cluster.client, two.address(family), NODE_PORT),
        "pod-node-port": (far.cluster.free(one.pods[0]), two.address(family), NODE_PORT),
    }


def forget(far: Scene) -> None:
    """Let all hosts forget what they were told of the ways' MTUs."""
    for host in far.cluster.hosts:
        for family in FAMILIES:
            host.run("ip", f"-{family}", "route", "flush", "cache", check=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_much_data_both_ways(far: Scene, echo: App, family: int, path: str) -> None:
    """Both ends send segments of 1,500 bytes and are told, whatever they know each other by."""
    client, to, port = paths(far, echo, family)[path]
    script = ("echo.py", "ask", to, str(port))
    wait_for(lambda: client.script(*script, "1").returncode == 0, 5, "the echo to answer")
    forget(far)
    done = client.script(*script, str(BULK))
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_datagrams_both_ways(far: Scene, echo: App, family: int, path: str) -> None:
    """Whoever sends what the way does not take is told, and sends the next one in pieces.

    Of large ones IPv6 hears by an error about a fragment; IPv4's are cut again on the way.
    """
    client, to, port = paths(far, echo, family)[path]
    script = ("datagrams.py", "ask", to)
    number = str(port if port == NODE_PORT else 53)
    wait_for(lambda: client.script(*script, number, "1").returncode == 0, 5, "an answer")
    for sizes in ("1400", "4000", "60000"):
        forget(far)
        # both ends are told once: it takes a datagram each
        done = client.script(*script, number, sizes, "3", TOLD_S)
        assert (done.stderr, done.returncode) == ("", 0)


def told(found: Packet, family: int) -> Packet:
    """Return the packet that an error is about."""
    quoted = parse(found.payload[8:], leaves=True)
    assert quoted, found
    assert quoted.family == family
    return quoted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", ["pod-elsewhere", "outside-elsewhere", "outside-here"])
def test_who_says_what(far: Scene, echo: App, family: int, path: str) -> None:
    """The client hears of packets that it has sent, from a router or from whom it has asked."""
    client, to, port = paths(far, echo, family)[path]
    script = ("echo.py", "ask", to, str(port))
    wait_for(lambda: client.script(*script, "1").returncode == 0, 5, "the echo to answer")
    forget(far)
    with Capture(client) as capture:
        assert client.script(*script, str(BULK)).returncode == 0
        error = capture.find(
            lambda p: p.protocol == ICMP[family] and not p.leaves and p.icmp == TOO_BIG[family],
            "an error",
        )
    quoted = told(error, family)
    assert (quoted.source, quoted.destination) == (client.address(family), to)
    assert quoted.ports[1] == port
    at = 6 if family == 4 else 4
    assert int.from_bytes(error.payload[at:8]) == MTU
    # the network of a client whom the backend sees is the backend's as well
    hidden = path == "outside-elsewhere"
    assert error.source == (to if hidden else ROUTER[family == 6])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_traceroute_shows(far: Scene, echo: App, family: int) -> None:
    """The node, the router between the nodes, the backend's node, and then the service itself."""
    client = paths(far, echo, family)["pod-elsewhere"][0]
    one, two = far.cluster.nodes
    to = echo.address(family)
    net = far.cluster.plan.nodes
    hops = [hop_of(client, to, family, ttl) for ttl in (1, 2, 3)]
    here = {one.address(family), net[0].gateway6 if family == 6 else net[0].gateway4}
    there = {two.address(family), net[1].gateway6 if family == 6 else net[1].gateway4}
    assert hops[0] in here
    assert hops[1] == ROUTER[family == 6]
    assert hops[2] in there
    before = counters(far.agents[0], family)
    assert client.script("echo.py", "ask", to, "80", "1").returncode == 0
    assert (counters(far.agents[0], family) - before)["packet_in"]


def hop_of(client: Host, to: str, family: int, ttl: int) -> str:
    """Return who says that a SYN with a hop limit is too old, about what the client has sent."""
    level, name = (
        (socket.IPPROTO_IP, socket.IP_TTL)
        if family == 4
        else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
    )
    script = (
        "import socket, sys; s = socket.socket(int(sys.argv[1])); s.settimeout(0.2);"
        f"s.setsockopt({int(level)}, {int(name)}, {ttl}); s.connect_ex((sys.argv[2], 80))"
    )
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    with Capture(client) as capture:
        client.run(sys.executable, "-I", "-S", "-c", script, str(int(number)), to)
        error = capture.find(
            lambda p: p.protocol == ICMP[family] and not p.leaves and p.icmp == TOO_OLD[family],
            f"an answer to hop limit {ttl}",
        )
    quoted = told(error, family)
    assert (quoted.source, quoted.destination) == (client.address(family), to)
    assert quoted.ports[1] == 80
    return error.source

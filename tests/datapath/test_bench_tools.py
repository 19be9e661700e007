# SPDX-License-Identifier: Apache-2.0
"""The load tools of scripts/bench measure what they say, over loopback."""

from __future__ import annotations

import http.server
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from subprocess import PIPE

import pytest
from bcc import BPF

from pyproxy.errors import PyproxyError
from pyproxy.kernel import libbpf
from tests.bench import objects
from tests.bench.attachment import switch_of
from tests.bench.build import build_tools
from tests.bench.dialled import (
    NODE_PORT,
    dialled_objects,
    node_endpoint,
    pod_endpoint,
    service_endpoint,
    spawner,
)
from tests.bench.iptables import iptables_on
from tests.bench.load import Endpoint, Process, Tools, client, probing, running, serving
from tests.bench.netfilter import Rules, Tracking
from tests.bench.nftables import nftables_on
from tests.bench.nodeports import lead_through
from tests.bench.packets import untranslated
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host

ANY_CPU = -1
BURST = 32  # of load/client.c
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def spawn(argv: Sequence[str]) -> Process:
    """Start a tool right here."""
    return subprocess.Popen(list(argv), stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """The tools, compiled into a cache of this run's own."""
    return build_tools(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def port() -> int:
    """A port that is free for TCP over both families."""
    with closing(socket.create_server(("::", 0), family=socket.AF_INET6)) as taken:
        number: int = taken.getsockname()[1]
    return number


def test_tools_are_compiled_once(tmp_path: Path) -> None:
    """A second run with the same source takes the tools of the first; nothing else is left."""
    first = build_tools(tmp_path)
    made = [tool.stat().st_mtime_ns for tool in first.values()]
    again = build_tools(tmp_path)
    assert again == first
    assert [tool.stat().st_mtime_ns for tool in again.values()] == made
    assert [entry.name for entry in tmp_path.iterdir()] == [first["client"].parent.name]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["tcp-connect", "udp-connect", "tcp-request", "udp-request"])
def test_a_window_counts_operations(tools: Tools, port: int, mode: str, family: int) -> None:
    """Windows of any mode and family last as asked, with ordered latencies that add up."""
    at = Endpoint(LOOPBACK[family], port)
    protocol = mode.split("-", maxsplit=1)[0]
    with (
        serving(spawn, tools, protocol, at, name="me", cpu=ANY_CPU),
        client(spawn, tools, mode, at, ANY_CPU) as caller,
    ):
        for window in (caller.window(30), caller.window(60)):
            latency = [window.latency_ns[key] for key in ("min", "p50", "p90", "p99", "max")]
            assert latency == sorted(latency)
            assert latency[0] > 0
            assert window.operations >= 10
            assert latency[0] <= 1e9 / window.rate <= latency[-1]


def test_a_burst_counts_each_datagram(tools: Tools, port: int) -> None:
    """All requests of a burst are answered and counted; a latency is that of the whole burst."""
    at = Endpoint(LOOPBACK[4], port)
    with (
        serving(spawn, tools, "udp", at, name="me", cpu=ANY_CPU),
        client(spawn, tools, "udp-burst", at, ANY_CPU) as caller,
    ):
        window = caller.window(30)
    assert window.operations % BURST == 0
    assert window.operations > 2 * BURST
    assert window.latency_ns["min"] <= BURST * 1e9 / window.rate <= window.latency_ns["max"]


@pytest.mark.parametrize(("mode", "step"), [("udp-open", 1), ("udp-send", 0)])
def test_no_port_opens_twice(tools: Tools, port: int, mode: str, step: int) -> None:
    """Datagrams that open connections come from one port after the other, and need no answer."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sink:
        sink.bind((LOOPBACK[4], port))
        with client(spawn, tools, mode, Endpoint(LOOPBACK[4], port), ANY_CPU) as caller:
            assert caller.window(2).operations > 10
        ports = [sink.recvfrom(100, socket.MSG_DONTWAIT)[1][1] for _ in range(10)]
    assert [later - ports[0] for later in ports] == [n * step for n in range(10)]


def test_connections_leave_no_time_wait(tools: Tools, port: int) -> None:
    """Thousands of connections use up no ports: none of them is in TIME_WAIT afterwards."""
    at = Endpoint(LOOPBACK[4], port)
    with (
        serving(spawn, tools, "tcp", at, name="me", cpu=ANY_CPU),
        client(spawn, tools, "tcp-connect", at, ANY_CPU) as caller,
    ):
        assert caller.window(50).operations > 100
    waiting = subprocess.run(
        ["ss", "-Htn", "state", "time-wait", f"( sport = :{port} or dport = :{port} )"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert waiting.stdout == ""


def test_a_failed_operation_ends_the_client(tools: Tools, port: int) -> None:
    """Nobody listens: there is no result but a sentence with the kernel's reason."""
    with (
        client(spawn, tools, "tcp-connect", Endpoint(LOOPBACK[4], port), ANY_CPU) as caller,
        pytest.raises(PyproxyError, match="Connection refused"),
    ):
        caller.window(10)


def test_the_prober_tells_who_answers(tools: Tools, port: int) -> None:
    """It prints a change of server and a gap between two, with times in their order."""
    at = Endpoint(LOOPBACK[4], port)
    with ExitStack() as undo:
        with serving(spawn, tools, "tcp", at, name="first", cpu=ANY_CPU):
            prober = undo.enter_context(probing(spawn, tools, at, 50, ANY_CPU))
            answers = [prober.next_answer(5)]
        answers.append(prober.next_answer(5))
        started_ns = time.monotonic_ns()
        undo.enter_context(serving(spawn, tools, "tcp", at, name="second", cpu=ANY_CPU))
        answers.append(prober.next_answer(5))
    assert [answer.name for answer in answers] == ["first", "-", "second"]
    assert answers[0].at_ns < answers[1].at_ns < started_ns < answers[2].at_ns
    assert answers[2].at_ns < time.monotonic_ns()


def _unhealthy_twice(asked: list[str]) -> type[http.server.BaseHTTPRequestHandler]:
    """Return a handler that answers 503 twice and then 200; `asked` gets the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) > 2 else 503)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


def test_await_http_waits_for_status_200(tools: Tools) -> None:
    """It goes on asking while the answer is another, and then tells the time."""
    asked: list[str] = []
    with http.server.HTTPServer((LOOPBACK[4], 0), _unhealthy_twice(asked)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started_ns = time.monotonic_ns()
        argv = [tools["await_http"], *server.server_address, "/healthz", 5000]
        with running(spawn, argv) as tool:
            at_ns = int(tool.read_line(6))
        server.shutdown()
    assert started_ns < at_ns < time.monotonic_ns()
    assert asked == ["/healthz"] * 3


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("client", ["tcp-connect", "localhost", "80", "-1"], "literal IPv4 or IPv6"),
        ("client", ["sctp", "127.0.0.1", "80", "-1"], "the mode must be"),
        ("server", ["tcp", "127.0.0.1", "70000", "me", "-1"], "1 to 65535"),
        ("server", ["sctp", "127.0.0.1", "80", "me", "-1"], "tcp or udp"),
        ("prober", [], "usage: prober"),
        ("await_http", ["::1", "80", "/healthz", "soon"], "the timeout in ms"),
    ],
)
def test_wrong_usage_is_named(
    tools: Tools, tool: str, arguments: Sequence[str], sentence: str
) -> None:
    """A wrong argument ends a tool with status 2 and a sentence on what it takes."""
    done = subprocess.run(
        [tools[tool], *arguments], capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


class _Pinning(Agent):
    """Attaches a program that refuses connect(), by a pinned link."""

    def attach(self, programs: BPF) -> None:
        """Put connect4 on the node's cgroup and pin the link."""
        self.bpffs.mkdir()
        refuse = programs.load_func(b"refuse", BPF.CGROUP_SOCK_ADDR, attach_type=CONNECT4)
        cgroup = os.open(self.node.root, os.O_RDONLY)
        link = libbpf.link_create(refuse.fd, cgroup, CONNECT4)
        libbpf.obj_pin(link, str(self.bpffs / "connect4"))
        os.close(link)
        os.close(cgroup)

    def stop(self, timeout_s: float = 10.0) -> float:
        """There is no process to stop."""
        return timeout_s


CONNECT4 = 10  # enum bpf_attach_type
REFUSE = b"int refuse(struct bpf_sock_addr *ctx) { return 0; }"


def test_the_switch_attaches_and_detaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, a connection is made; on, the program refuses it; nothing is left in the end.

    A host outside of the node's cgroup is not concerned.
    """
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(Path(__file__).parents[2] / "bpf/include"))
    programs = BPF(text=REFUSE)
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        (node,) = cluster.nodes
        agent = _Pinning(node, cluster.directory, cluster.bpffs / node.name)
        pod, machine = node.pods[0], untranslated(cluster, node.pods[0])
        agent.attach(programs)
        assert not _connects(pod)
        with switch_of(agent) as switch:
            assert switch.names == ["connect4"]
            assert switch.devices == set()
            for _ in range(3):
                assert _connects(pod)
                switch.turn(True)
                switch.turn(True)
                assert not _connects(pod)
                assert _connects(machine)
                switch.turn(False)
            switch.turn(True)
        assert _connects(pod)
        cgroup = os.open(node.root, os.O_RDONLY)
        assert libbpf.cgroup_programs(cgroup, CONNECT4) == []
        os.close(cgroup)


def _connects(host: Host) -> bool:
    """Tell whether a UDP socket of the host may be connected."""
    script = "exec 3<>/dev/udp/127.0.0.1/9"
    return host.run("bash", "-c", script).returncode == 0


@pytest.mark.parametrize("tool", ["nftables", "iptables"])
def test_rules_carry_node_ports_and_leave_no_trace(tools: Tools, tool: str) -> None:
    """On, a host outside reaches the pod by the NodePort, and as the node; off, it does not.

    The pod is another node's, so that an answer comes back only if the source was masqueraded.
    """
    crowd = list(itertools.chain(*map(objects.crowd_member, range(3))))
    with Cluster(nodes=2, pods_per_node=1) as cluster, ExitStack() as undo:
        (node, other), client_host = cluster.nodes, cluster.client
        (answering,) = other.pods
        ours = dialled_objects(answering, NODE_PORT)
        loaded: AbstractContextManager[Rules] = (
            nftables_on(node, crowd, ours)
            if tool == "nftables"
            else iptables_on(node, [*crowd, *ours])
        )
        tracking = Tracking(node.netns)
        undo.callback(tracking.close)
        to = {family: node_endpoint(node, family) for family in (4, 6)}
        with loaded as rules:
            for _ in range(2):
                assert not tracking.is_on()
                assert _answers(tools, client_host, answering, to) == []
                rules.turn(True)
                assert _answers(tools, client_host, answering, to) == EVERY
                assert tracking.entries() >= len(EVERY)
                rules.turn(False)
            rules.turn(True)
        assert not tracking.is_on()
        assert node.run("nft", "list", "ruleset").stdout == ""


def test_nftables_translate_and_leave_no_trace(tools: Tools) -> None:
    """On, both families and protocols reach the pod by the ClusterIP and are tracked.

    Off, nothing is tracked and the ClusterIP leads out of the node; after the block there are no
    tables.
    """
    crowd = list(itertools.chain(*map(objects.crowd_member, range(3))))
    with Cluster(nodes=1, pods_per_node=2) as cluster:
        (node,) = cluster.nodes
        dialling, answering = untranslated(cluster, node.pods[0]), node.pods[1]
        tracking = Tracking(node.netns)
        with nftables_on(node, crowd, dialled_objects(answering)) as rules:
            for _ in range(3):
                assert not tracking.is_on()
                assert _answers(tools, dialling, answering) == []
                assert tracking.entries() == 0
                rules.turn(True)
                rules.turn(True)
                assert _answers(tools, dialling, answering) == EVERY
                assert tracking.entries() >= len(EVERY)
                rules.turn(False)
            rules.turn(True)
        assert not tracking.is_on()
        assert node.run("nft", "list", "ruleset").stdout == ""
        tracking.close()


EVERY = [("tcp", 4), ("tcp", 6), ("udp", 4), ("udp", 6)]


CLUSTER_IPS = {family: service_endpoint(family) for family in (4, 6)}


def _answers(
    tools: Tools, dialling: Host, answering: Host, to: Mapping[int, Endpoint] = CLUSTER_IPS
) -> list[tuple[str, int]]:
    """Return by which protocols and families the pod answers behind the service."""
    return [
        (protocol, family)
        for protocol, family in EVERY
        if _answers_by(tools, dialling, answering, protocol, to[family])
    ]


def _answers_by(tools: Tools, dialling: Host, answering: Host, protocol: str, to: Endpoint) -> bool:
    at = pod_endpoint(answering, 6 if ":" in to.address else 4)
    mode = f"{protocol}-connect"
    with (
        serving(spawner(answering), tools, protocol, at, name="pod", cpu=ANY_CPU),
        client(spawner(dialling), tools, mode, to, ANY_CPU) as caller,
    ):
        try:
            return caller.window(5).operations > 0
        except PyproxyError:
            return False


def test_packets_without_a_proxy_pass_the_node(tools: Tools) -> None:
    """A pod elsewhere is reached by the node, and answers by it, also after some traffic."""
    with Cluster(nodes=2, pods_per_node=1) as cluster:
        node, other = cluster.nodes
        (pod,) = other.pods
        lead_through(node, cluster.client, other, pod)
        for family in (4, 6):
            to = pod_endpoint(pod, family)
            for protocol in ("tcp", "udp"):
                assert _answers_by(tools, cluster.client, pod, protocol, to)
            ways = [(cluster.client, pod), (other, cluster.client)]
            for host, end in ways:
                shown = host.run("ip", "route", "get", end.address(family)).stdout
                assert f"via {node.address(family)} " in shown


def test_rules_that_nft_refuses_are_its_words() -> None:
    """What can't be loaded ends with nft's sentence, and takes nothing for loaded."""
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        (node,) = cluster.nodes
        wrong = objects.service("x", objects.Addresses("no address", "::1"), ["TCP"])
        slices = [
            objects.slice_of("x", family, ["10.0.0.1"], {"TCP": 1}, "") for family in FAMILIES
        ]
        with (
            pytest.raises(PyproxyError, match=r"nft refused the rules: .*unexpected"),
            nftables_on(node, [wrong, *slices], []),
        ):
            pass
        assert node.run("nft", "list", "ruleset").stdout == ""


FAMILIES = ("IPv4", "IPv6")

# SPDX-License-Identifier: Apache-2.0
"""The load tools of scripts/bench measure what they say, over loopback."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE

import pytest
from bcc import BPF

from pyproxy.errors import PyproxyError
from pyproxy.kernel import libbpf
from tests.bench.attachment import switch_of
from tests.bench.build import build_tools
from tests.bench.load import Endpoint, Process, Tools, client, probing, running, serving
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster

ANY_CPU = -1
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
@pytest.mark.parametrize("mode", ["tcp-connect", "udp-connect", "tcp-request"])
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
    """Off, a connection is made; on, the program refuses it; nothing is left in the end."""
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(Path(__file__).parents[2] / "bpf/include"))
    programs = BPF(text=REFUSE)
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        (node,) = cluster.nodes
        agent = _Pinning(node, cluster.directory, cluster.bpffs / node.name)
        agent.attach(programs)
        assert not _connects(cluster)
        with switch_of(agent) as switch:
            assert switch.names == ["connect4"]
            for _ in range(3):
                assert _connects(cluster)
                switch.turn(True)
                switch.turn(True)
                assert not _connects(cluster)
                switch.turn(False)
            switch.turn(True)
        assert _connects(cluster)
        cgroup = os.open(node.root, os.O_RDONLY)
        assert libbpf.cgroup_programs(cgroup, CONNECT4) == []
        os.close(cgroup)


def _connects(cluster: Cluster) -> bool:
    """Tell whether a UDP socket of the pod may be connected."""
    (pod,) = cluster.pods
    script = "exec 3<>/dev/udp/127.0.0.1/9"
    return pod.run("bash", "-c", script).returncode == 0

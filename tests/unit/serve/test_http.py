# SPDX-License-Identifier: Apache-2.0
"""The HTTP server itself: whoever asks slowly, wrongly or too often keeps nobody else waiting."""

from __future__ import annotations

import gc
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.serve.connection import Connection, Limits, Reply
from pyproxy.serve.http import STOP_S, HttpServer, Listener, listening
from tests.lab.waiting import wait_for

ASK = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
FEW = Limits(connections=4, request_s=0.3, idle_s=0.3, linger_s=0.2, request_bytes=64 << 10)


class Server:
    """A server on a free port of the loopback address."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.asked: list[str] = []
        self.http = HttpServer(limits)
        self.http.start()
        self.sock = listening("127.0.0.1", 0)
        self.address = self.sock.getsockname()
        self.http.open([Listener(self.sock, self.answer)])

    def answer(self, path: str) -> Reply:
        """Answer with the path."""
        self.asked.append(path)
        if path == "/bug":
            raise RuntimeError("a bug of ours")
        return Reply(200, path.encode(), (("X-One", "1"),))

    def connect(self) -> socket.socket:
        """Return a client."""
        return socket.create_connection(self.address, timeout=5)

    def talk(self, data: bytes) -> bytes:
        """Send, and return all that comes until the server closes."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_all(sock)

    def works(self) -> bool:
        """Return whether an ordinary client is answered."""
        return self.talk(LAST).endswith(b"\r\n\r\n/x")


def read_all(sock: socket.socket) -> bytes:
    """Return all that comes until the end; a reset is one, too."""
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def refuses(sock: socket.socket, data: bytes, times: int, pause_s: float = 0.0) -> bool:
    """Send again and again; return whether the server has enough of it before the end."""
    try:
        for _ in range(times):
            sock.sendall(data)
            time.sleep(pause_s)
    except OSError:
        return True
    return False


def status_of(answer: bytes) -> int:
    """Return the status of the first answer, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.fixture
def server() -> Iterator[Server]:
    """One with the limits that agents have."""
    made = Server()
    yield made
    made.http.stop()


@pytest.fixture
def strict() -> Iterator[Server]:
    """One with few connections and little patience."""
    made = Server(FEW)
    yield made
    made.http.stop()


def test_a_connection_is_kept(server: Server) -> None:
    """HTTP/1.1 as usual: request after request, and several at once in their order."""
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(ASK)
            assert sock.recv(65536).endswith(b"\r\n\r\n/x")
        sock.sendall(ASK.replace(b"/x", b"/1") + ASK.replace(b"/x", b"/2") + LAST)
        answers = read_all(sock)
    assert [answers.index(each) for each in (b"/1HTTP", b"/2HTTP")]
    assert answers.endswith(b"/x")
    assert server.asked[-3:] == ["/1", "/2", "/x"]


def test_an_old_client_is_answered(server: Server) -> None:
    """HTTP/1.0, without Host, and one that shuts its side down right behind the request."""
    assert server.talk(b"GET /x HTTP/1.0\r\n\r\n").endswith(b"/x")
    with server.connect() as sock:
        sock.sendall(ASK)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).endswith(b"/x")


@pytest.mark.parametrize("method", [b"HEAD", b"CONNECT"])
def test_some_methods_get_no_body(server: Server, method: bytes) -> None:
    """As the protocol has it."""
    answer = server.talk(method + LAST[3:])
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_is_passed_over(server: Server) -> None:
    """Nobody reads it, and the next request is understood; with an upgrade that nobody makes."""
    body = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100_000
    chunked = (
        b"PUT /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    upgrade = b"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert server.talk(body + chunked + upgrade + LAST).endswith(b"/x")
    assert server.asked == ["/1", "/2", "/3", "/x"]


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\n bad\r\n: y\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["no-http", "no-host", "bad-header", "bad-target", "too-long", "tls"],
)
def test_what_is_wrong_is_refused(server: Server, data: bytes) -> None:
    """400, and the connection ends; others go on."""
    with server.connect() as sock:
        sock.sendall(data)
        if data.startswith(b"\x16"):
            sock.shutdown(socket.SHUT_WR)
        assert status_of(read_all(sock)) == 400
    assert server.works()


def test_a_bug_ends_one_connection_only(server: Server) -> None:
    """An agent ends when a thread of its own does: nothing that is asked is worth that."""
    assert server.talk(ASK.replace(b"/x", b"/bug")) == b""
    assert server.works()


@given(data=st.binary(max_size=200), begun=st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_do_any_harm(server: Server, data: bytes, *, begun: bool) -> None:
    """Whatever comes, alone or behind a request: the server works on."""
    with server.connect() as sock:
        sock.sendall((ASK if begun else b"") + data)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert server.works()


@pytest.mark.parametrize("sent", [b"", b"GET /x HT", ASK], ids=["silent", "slow", "idle"])
def test_who_is_slow_is_given_up(strict: Server, sent: bytes) -> None:
    """After so much time the connection ends, without a word."""
    started = time.monotonic()
    with strict.connect() as sock:
        sock.sendall(sent)
        read_all(sock)
    assert 0.2 < time.monotonic() - started < 3


def test_a_request_must_be_whole_in_time(strict: Server) -> None:
    """A byte now and then keeps nothing open."""
    started = time.monotonic()
    with strict.connect() as sock:
        assert refuses(sock, b"G", times=100, pause_s=0.05)
    assert time.monotonic() - started < 3


def test_who_reads_nothing_stops_nobody(strict: Server) -> None:
    """Answers to a flood of requests wait in no memory of ours."""
    with strict.connect() as sock:
        sock.settimeout(0.2)
        assert refuses(sock, ASK * 1000, times=1000)
        assert len(strict.asked) < 500_000
        assert strict.works()


def test_endless_bodies_are_cut(strict: Server) -> None:
    """Who sends on and on is answered, and then has to connect again."""
    endless = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
    with strict.connect() as sock:
        sock.sendall(endless)
        assert sock.recv(65536).endswith(b"/x")
        assert refuses(sock, b"y" * 65536, times=10_000)
    assert strict.works()


def test_of_too_many_the_oldest_goes(strict: Server) -> None:
    """So that whoever comes next is answered at once, however many are silent."""
    with ExitStack() as clients:
        silent = [clients.enter_context(strict.connect()) for _ in range(20)]
        started = time.monotonic()
        assert strict.works()
        assert time.monotonic() - started < 0.2
        assert read_all(silent[0]) == b""


def test_connections_leave_no_garbage(server: Server) -> None:
    """The agent runs without the garbage collector until it has all objects."""
    gc.collect()
    gc.disable()
    try:
        for data in (LAST, ASK + LAST, b"nonsense\r\n\r\n") * 3:
            server.talk(data)
        wait_for(lambda: not server.http._connections, 5, "all connections to end")
        left = [one for one in gc.get_objects() if isinstance(one, Connection)]
    finally:
        gc.enable()
    assert len(left) <= 1, "the server's loop may yet have the last one in hand"


def test_stop_ends_open_connections(server: Server) -> None:
    """Within its time, and again and again."""
    with server.connect() as sock:
        sock.sendall(b"GET")
        started = time.monotonic()
        server.http.stop()
        server.http.stop()
        assert time.monotonic() - started < STOP_S
        assert read_all(sock) == b""


def test_what_is_opened_and_closed_before_anything_runs() -> None:
    """A server that was never started keeps no port."""
    http, sock = HttpServer(), listening("127.0.0.1", 0)
    http.open([Listener(sock, lambda _: Reply(200))])
    http.close([sock])
    http.start()
    wait_for(lambda: sock.fileno() < 0, 5, "the socket to be closed")
    http.stop()


def test_no_files_left_are_waited_for(server: Server) -> None:
    """Who has waited for longest makes room; then all goes on."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as clients:
        idle = [clients.enter_context(server.connect()) for _ in range(3)]
        wait_for(lambda: len(server.http._connections) == 3, 5, "three connections")
        late = socket.socket()
        clients.callback(late.close)
        highest = max(sock.fileno() for sock in (*idle, late)) + 4
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(late.fileno() + 1, highest), before[1]))
        try:
            late.settimeout(5)
            late.connect(server.address)
            late.sendall(LAST)
            answer = read_all(late)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert answer.endswith(b"/x")


def test_a_host_is_bound_for_its_own_family_alone() -> None:
    """But where both are asked for: see HealthServer."""
    with listening("::", 0) as sock:
        port = sock.getsockname()[1]
        with listening("0.0.0.0", port) as other:
            assert other.getsockname() == ("0.0.0.0", port)

# SPDX-License-Identifier: Apache-2.0
"""Port 10249 answers as kube-proxy does, whatever its clients do (parity A13)."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from pyproxy.meters import Reading, Spec, Type
from pyproxy.model import Family, ServicePortName
from pyproxy.serve import debug, listening
from pyproxy.serve.debug import Contents, Page, debug_server
from pyproxy.serve.exposition import Exposition
from pyproxy.serve.listening import MOST_CLIENTS, Listener
from pyproxy.tables import ServiceCounters
from tests.lab.waiting import wait_for
from tests.unit.serve.test_exposition import many
from tests.unit.serve.test_health import free_port

THING = Reading(Spec("things_total", Type.COUNTER, "Things."), {(): 3})
FEW = 2000  # services whose text no socket takes at once
PATIENCE_S = 30.0
PLAIN = "text/plain; charset=utf-8"
Counted = Mapping[tuple[Family, ServicePortName], ServiceCounters]


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes


class Served:
    """A running server; `services` is what there is of services."""

    def __init__(self) -> None:
        self.services: Counted = {}
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.failures: list[OSError] = []
        exposition = Exposition([lambda: [THING]], lambda: self.services)
        self.contents = Contents(exposition, "iptables", lambda: '{"kind": "X"}')

    def server(self) -> Listener:
        """Return a server of it."""
        return debug_server(self.address, self.contents, self.failures.append)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask once."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found

    def client(self, text: bytes = b"") -> socket.socket:
        """Return a client that has said `text` and reads nothing."""
        made = socket.create_connection(self.address, PATIENCE_S)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.sendall(text)
        return made

    def listens(self) -> bool:
        """Return whether the server takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(self.address) == 0


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve for the length of a test."""
    made = Served()
    server = made.server()
    server.start()
    wait_for(made.listens, PATIENCE_S, "the server to listen")
    yield made
    server.stop()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/healthz", b"ok"),
        ("/healthz?verbose", b"[+]ping ok\nhealthz check passed\n"),
        ("/healthz?verbose=1", b"[+]ping ok\nhealthz check passed\n"),
        ("/healthz/ping", b"ok"),
        ("/proxyMode", b"iptables"),
    ],
)
def test_plain_answers(served: Served, path: str, body: bytes) -> None:
    """To the byte, with no newline after the mode (A13.2, A13.3)."""
    answer = served.get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"] == PLAIN
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/debug/pprof/", "/debug/flags/v", "/flagz", "/statusz"]
)
def test_what_is_not_there_is_not_found(served: Served, path: str) -> None:
    """Profiles are Go's, and so are the flags of its logger."""
    assert served.get(path)[::2] == (404, b"404 page not found\n")


def test_the_configuration_is_an_object(served: Served) -> None:
    """/configz is what is in force (A13.5)."""
    answer = served.get("/configz")
    assert (answer.status, json.loads(answer.body)) == (200, {"kind": "X"})
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_metrics_are_text_for_every_scraper(served: Served, version: str) -> None:
    """In one format, whatever is asked for: kube-proxy has no other than text either."""
    client = served.client(
        f"GET /metrics {version}\r\nAccept: application/openmetrics-text\r\n\r\n".encode()
    )
    answer = http.client.HTTPResponse(client)
    answer.begin()
    assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert (answer.getheader("Transfer-Encoding") == "chunked") is (version == "HTTP/1.1")
    text = answer.read().decode()
    assert "# TYPE things_total counter\nthings_total 3.0\n" in text
    assert text.count("# TYPE pyproxy_service_") == 3
    client.close()


def test_metrics_are_compressed_where_that_is_wanted(served: Served) -> None:
    """As Prometheus always wants it."""
    served.services = many(FEW)
    plain, packed = served.get("/metrics"), served.get("/metrics", Accept_Encoding="gzip")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    of_services = [line for line in plain.body.splitlines() if line.startswith(b"pyproxy_service_")]
    unpacked = gzip.decompress(packed.body).splitlines()
    assert [line for line in unpacked if line.startswith(b"pyproxy_service_")] == of_services
    assert len(packed.body) < len(plain.body) / 8


def test_head_has_no_body(served: Served) -> None:
    """What looks whether the server is there gets the headers alone."""
    answer = served.get("/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_checks_are_counted_as_slis(served: Served) -> None:
    """/metrics/slis knows how often /healthz was asked (A13.4)."""
    assert b"kubernetes_healthcheck{" not in served.get("/metrics/slis").body
    served.get("/healthz")
    served.get("/healthz")
    text = served.get("/metrics/slis").body
    assert b'kubernetes_healthcheck{name="ping",type="healthz"} 1.0\n' in text
    checks = b'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2.0\n'
    assert checks in text


@pytest.mark.parametrize("said", [b"", b"GET /endless HTTP/1.1\r\n\r\n"], ids=["ask", "read"])
def test_clients_do_not_pile_up(
    served: Served, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Those that never ask, or never read, make room for those that do, the oldest first."""
    monkeypatch.setattr(debug._Handler, "timeout", 10 * PATIENCE_S)
    served.contents._answers["/endless"] = lambda _: Page(itertools.repeat(bytes(65536)))
    threads = threading.active_count()
    idle = [served.client(said) for _ in range(3 * MOST_CLIENTS)]
    assert served.get("/healthz").body == b"ok"
    most = threads + MOST_CLIENTS
    wait_for(lambda: threading.active_count() <= most, PATIENCE_S, "threads to end")
    if not said:
        # and not a younger one in their place: one made room for who was answered
        for client in idle[: 2 * MOST_CLIENTS + 1]:
            assert client.recv(1) == b""
    for client in idle:
        client.close()


def test_a_slow_client_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets an end that no scraper takes for the whole."""
    served.services = many(FEW)
    with monkeypatch.context() as patch:
        patch.setattr(debug, "ANSWER_S", 0.0)
        with pytest.raises(http.client.IncompleteRead):
            served.get("/metrics")
    assert served.get("/healthz").body == b"ok"


def test_what_breaks_is_an_error_of_the_server(served: Served) -> None:
    """And the next one is answered."""

    def broken() -> str:
        raise ValueError("no configuration")

    served.contents._answers["/configz"] = Contents(Exposition([]), "", broken)._answers["/configz"]
    assert served.get("/configz").status == 500
    assert served.get("/healthz").status == 200


def test_what_breaks_midway_ends_nothing_else(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees that it has not all of it; an agent ends when a thread does, and none may."""
    crashes: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)

    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("no second piece")

    served.contents._answers["/configz"] = lambda _: Page(pieces())
    with pytest.raises(http.client.IncompleteRead):
        served.get("/configz")
    said = f"a client of port {served.port} was not answered"
    wait_for(lambda: crashes or said in caplog.text, PATIENCE_S, "the thread to end")
    assert not crashes
    assert served.get("/healthz").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_zeros_stand_for_both_families(host: str) -> None:
    """As to Go's net package, and on the health port: a scraper may come by either."""
    made = Served()
    server = debug_server((host, made.port), made.contents)
    server.start()
    wait_for(made.listens, PATIENCE_S, "the server to listen")
    for scraper in ("127.0.0.1", "::1"):
        made.address = (scraper, made.port)
        assert made.get("/healthz").status == 200
    server.stop()


def test_an_address_in_use_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five seconds; who wants to end the agent for it is told each time (A13.1)."""
    monkeypatch.setattr(listening, "RETRY_S", 0.05)
    made = Served()
    server = made.server()
    with socket.socket() as other:
        other.bind(made.address)
        other.listen()
        server.start()
        wait_for(lambda: len(made.failures) > 1, PATIENCE_S, "two attempts")
    wait_for(made.listens, PATIENCE_S, "the server to listen")
    wait_for(lambda: made.get("/healthz").status == 200, PATIENCE_S, "an answer")
    server.stop()


def test_stop_keeps_nobody_waiting_whenever_it_comes() -> None:
    """Also right behind start(), when the server is only being made."""
    for _ in range(4):
        made = Served()
        server = made.server()
        started = time.monotonic()
        server.start()
        server.stop()
        assert time.monotonic() - started < listening.STOP_S
        assert not made.listens()

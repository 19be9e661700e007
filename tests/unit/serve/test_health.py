# SPDX-License-Identifier: Apache-2.0
"""/healthz and /livez answer with kube-proxy's codes, bodies and headers, when it would."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from pyproxy.model import Family
from pyproxy.serve import health
from pyproxy.serve.health import FamilyHealth, Health, HealthServer, proxy_health, timestamp
from pyproxy.serve.http import STOP_S, HttpServer
from tests.lab.waiting import wait_for

SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND  # 2026-01-01
GOOD = Health({family: FamilyHealth(healthy=True, updated_ns=NOW) for family in Family})
BAD = Health({Family.IPV4: FamilyHealth(healthy=False, updated_ns=SECOND)})


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Served:
    """A running server whose health can be set."""

    def __init__(self, host: str = "127.0.0.1", *, hard: bool = False) -> None:
        self.health = GOOD
        self.port = free_port()
        self.failures: list[str] = []
        self.http = HttpServer()
        self.http.start()
        self.server = HealthServer(
            self.http,
            (host, self.port),
            lambda: self.health,
            failed=self.failures.append,
            hard=hard,
        )

    def get(
        self, path: str, method: str = "GET", host: str = "127.0.0.1"
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body."""
        connection = http.client.HTTPConnection(host, self.port, timeout=5)
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()

    def listens(self, host: str = "127.0.0.1") -> bool:
        """Return whether the server takes connections."""
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            return sock.connect_ex((host, self.port)) == 0

    def stop(self) -> None:
        """End all of it."""
        self.server.stop()
        self.http.stop()


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve for the length of a test."""
    made = Served()
    made.server.start()
    wait_for(made.listens, 5, "the server to listen")
    yield made
    made.stop()


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/healthz?verbose", "/%6civez"])
def test_codes_follow_health(served: Served, path: str) -> None:
    """200 when healthy, 503 when not (parity A12.2)."""
    assert served.get(path)[0] == 200
    served.health = BAD
    status, headers, body = served.get(path)
    assert status == 503
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(body)["lastUpdated"] == "1970-01-01T00:00:01Z"
    assert ("nodeEligible" in json.loads(body)) == path.startswith("/healthz")


def test_any_method_is_answered(served: Served) -> None:
    """As Go's mux does; HEAD without a body."""
    for method in ("POST", "PUT", "OPTIONS"):
        assert served.get("/healthz", method)[0] == 200
    status, headers, body = served.get("/healthz", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0


def test_other_paths_are_not_found(served: Served) -> None:
    """In Go's words (parity A12.1)."""
    for path in ("/metrics", "/", "/healthz/", "/healthz/ping"):
        status, headers, body = served.get(path)
        assert (status, body) == (404, "404 page not found\n")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_the_body_is_that_of_kubernetes_1_36() -> None:
    """Byte for byte, on one line (parity A12.3)."""
    families = {
        Family.IPV6: FamilyHealth(healthy=False, updated_ns=NOW - 90 * SECOND),
        Family.IPV4: FamilyHealth(healthy=True, updated_ns=NOW - SECOND + 120_000),
    }
    reply = proxy_health(Health(families), "/healthz", NOW + 5)
    assert reply.status == 503
    assert reply.body.decode() == (
        '{"lastUpdated":"2025-12-31T23:59:59.00012Z",'
        '"currentTime":"2026-01-01T00:00:00.000000005Z",'
        '"nodeEligible":true,"healthy":false,'
        '"status":{"IPv4":{"lastUpdated":"2025-12-31T23:59:59.00012Z","healthy":true},'
        '"IPv6":{"lastUpdated":"2025-12-31T23:58:30Z","healthy":false}}}'
    )


def test_nothing_is_said_of_families_that_were_never_synced() -> None:
    """The status is left out while it is empty, and 200 says that now is the last update."""
    families = {family: FamilyHealth(healthy=True, updated_ns=0) for family in Family}
    assert proxy_health(Health(families), "/livez", NOW).body.decode() == (
        '{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:00Z","healthy":true}'
    )
    late = proxy_health(
        Health({Family.IPV4: FamilyHealth(healthy=False, updated_ns=0)}), "/livez", NOW
    )
    assert json.loads(late.body)["status"]["IPv4"]["lastUpdated"] == "0001-01-01T00:00:00Z"


def test_a_node_that_is_going_away_is_healthy_all_the_same() -> None:
    """503 with healthy true; the last update is not now, then (parity A12.3)."""
    reply = proxy_health(GOOD._replace(node_eligible=False), "/healthz", NOW + SECOND)
    body = json.loads(reply.body)
    assert (reply.status, body["healthy"], body["nodeEligible"]) == (503, True, False)
    assert body["lastUpdated"] == "2026-01-01T00:00:00Z"
    assert proxy_health(GOOD._replace(node_eligible=False), "/livez", NOW).status == 200


@pytest.mark.parametrize("ns", [NOW, NOW + 1, NOW + 100_000_000, NOW + 999_999_999])
def test_times_are_written_as_go_does(ns: int) -> None:
    """Nanoseconds without zeros at the end, which Python reads to the microsecond."""
    text = timestamp(ns)
    assert not text.endswith("0Z") or "." not in text
    assert datetime.fromisoformat(text).timestamp() == pytest.approx(ns / SECOND, abs=1e-5)


def test_answers_are_counted(served: Served) -> None:
    """By path and code, for the metrics; what is not found is none of them (parity A20.7)."""
    for path in ("/healthz", "/livez", "/healthz", "/nothing"):
        served.get(path)
    served.health = BAD
    served.get("/healthz")
    assert served.server.counts() == {("healthz", 200): 2, ("healthz", 503): 1, ("livez", 200): 1}


def test_stop_keeps_nobody_waiting_whenever_it_comes() -> None:
    """Also right behind start(), when the server is only being made."""
    for _ in range(8):
        made = Served()
        started = time.monotonic()
        made.server.start()
        made.stop()
        assert time.monotonic() - started < STOP_S
        assert not made.listens()


def test_an_address_in_use_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server comes up when the address is free; it is complained about once (parity A12.7)."""
    monkeypatch.setattr(health, "RETRY_S", 0.02)
    made = Served()
    with socket.socket() as other:
        other.bind(("127.0.0.1", made.port))
        other.listen()
        made.server.start()
        wait_for(lambda: bool(made.failures), 5, "the failure")
        time.sleep(0.1)
    wait_for(made.listens, 5, "the server to listen")
    wait_for(lambda: made.get("/healthz")[0] == 200, 5, "an answer")
    where = f"127.0.0.1:{made.port}: Address already in use"
    assert made.failures == [f"failed to start proxy healthz on {where}"]
    assert not made.server.failure
    made.stop()


def test_with_hard_fail_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for that ends (parity A12.7)."""
    monkeypatch.setattr(health, "RETRY_S", 0.02)
    made = Served(hard=True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", made.port))
        other.listen()
        made.server.start()
        wait_for(lambda: not made.server._thread.is_alive(), 5, "the thread to end")
    assert len(made.failures) == 1
    assert not made.listens()
    made.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_zeros_stand_for_both_families(host: str) -> None:
    """As to Go's net package: a prober may come by either."""
    made = Served(host)
    made.server.start()
    wait_for(made.listens, 5, "the server to listen")
    assert made.get("/healthz")[0] == made.get("/healthz", host="::1")[0] == 200
    made.stop()

# SPDX-License-Identifier: Apache-2.0
"""/healthz answers with kube-proxy's codes and headers."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest

from pyproxy.serve import health
from pyproxy.serve.health import Health, HealthServer
from tests.lab.waiting import wait_for


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Served:
    """A running server whose health can be set."""

    def __init__(self) -> None:
        self.health = Health(healthy=True, updated=1.0)
        self.port = free_port()
        self.server = HealthServer(("127.0.0.1", self.port), lambda: self.health)

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()

    def listens(self) -> bool:
        """Return whether the server takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve for the length of a test."""
    made = Served()
    made.server.start()
    wait_for(made.listens, 5, "the server to listen")
    yield made
    made.server.stop()


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/healthz?verbose"])
def test_codes_follow_health(served: Served, path: str) -> None:
    """200 when healthy, 503 when not (parity A12.2)."""
    assert served.get(path)[0] == 200
    served.health = Health(healthy=False, updated=1.0)
    status, headers, body = served.get(path)
    assert status == 503
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(body)["lastUpdated"] == "1970-01-01T00:00:01Z"
    assert ("nodeEligible" in json.loads(body)) == path.startswith("/healthz")


def test_other_paths_are_not_found(served: Served) -> None:
    """As kube-proxy (parity A12.1)."""
    assert served.get("/metrics")[0] == 404


def test_stop_keeps_nobody_waiting_whenever_it_comes() -> None:
    """Also right behind start(), when the server is only being made."""
    for _ in range(8):
        made = Served()
        started = time.monotonic()
        made.server.start()
        made.server.stop()
        assert time.monotonic() - started < health.STOP_S
        assert not made.listens()


def test_an_address_in_use_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server comes up when the address is free (parity A12.7)."""
    monkeypatch.setattr(health, "RETRY_S", 0.05)
    made = Served()
    with socket.socket() as other:
        other.bind(("127.0.0.1", made.port))
        other.listen()
        made.server.start()
        assert made.listens()
    wait_for(made.listens, 5, "the server to listen")
    wait_for(lambda: made.get("/healthz")[0] == 200, 5, "an answer")
    made.server.stop()

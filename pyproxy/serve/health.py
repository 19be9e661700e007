# SPDX-License-Identifier: Apache-2.0
"""/healthz for load balancers and probes, as kube-proxy answers it (parity A12)."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

log = logging.getLogger(__name__)

RETRY_S = 5.0  # parity A12.7
STOP_S = 1.0


class Health(NamedTuple):
    """Whether the node is served. `updated` is the last success in seconds since the epoch."""

    healthy: bool
    updated: float


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Bind as HTTPServer does, but without asking the DNS for the host's name."""
        socketserver.TCPServer.server_bind(self)

    def __init__(self, address: tuple[str, int], health: Callable[[], Health]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.health = health
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answer /healthz and /livez; everything else is not found (parity A12.1)."""
        path = self.path.partition("?")[0]
        if path not in {"/healthz", "/livez"}:
            self.send_error(404)
            return
        health = self.server.health()
        body = _body(health, path, time.time()).encode()
        self.send_response(200 if health.healthy else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""


def _body(health: Health, path: str, now: float) -> str:
    answer = {
        "lastUpdated": _stamp(now if health.healthy else health.updated),
        "currentTime": _stamp(now),
        "healthy": health.healthy,
    }
    if path == "/healthz":
        answer["nodeEligible"] = True
    return json.dumps(answer)


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class HealthServer:
    """Serves health from threads of its own; an address in use is tried again every 5 s."""

    def __init__(self, address: tuple[str, int], health: Callable[[], Health]) -> None:
        self._address = address
        self._health = health
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of _server, against a stop() while it is being made
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name="healthz", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End the server; whatever it is just doing, it keeps nobody waiting."""
        self._stopping.set()
        with self._lock:
            server = self._server
        if server:
            server.shutdown()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                server = _Server(self._address, self._health)
            except OSError as error:
                host, port = self._address
                log.warning("healthz cannot listen on %s port %d: %s", host, port, error.strerror)
                self._stopping.wait(RETRY_S)
                continue
            with server:
                if self._is_wanted(server):
                    server.serve_forever(poll_interval=0.1)
            return

    def _is_wanted(self, server: _Server) -> bool:
        """Publish the server for stop(), unless that has been called already."""
        with self._lock:
            self._server = server
            if not self._stopping.is_set():
                return True
            self._server = None
            return False

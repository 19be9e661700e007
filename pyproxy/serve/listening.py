# SPDX-License-Identifier: Apache-2.0
"""HTTP servers in threads of their own, with as many clients at a time as a node can bear."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pyproxy.serve.http import listening

log = logging.getLogger(__name__)

RETRY_S = 5.0  # parity A12.7, A13.1
STOP_S = 1.0
MOST_CLIENTS = 16


class BoundedServer(ThreadingHTTPServer):
    """A thread for each client, MOST_CLIENTS at most: who has been there longest makes room.

    So clients that read nothing, or say nothing, neither pile up nor keep others out. `context`
    is what the handlers need.
    """

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: Any
    ) -> None:
        self.context = context
        self._address = address
        self._clients: dict[Any, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Listen, without asking the DNS for the host's name as HTTPServer does."""
        self.socket.close()
        self.socket = listening(*self._address, both=True)
        self.server_name, self.server_port = self._address

    def server_activate(self) -> None:
        """Do nothing: it listens already."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to serve a client."""
        with self._lock:
            self._clients[request] = None
            oldest = next(iter(self._clients)) if len(self._clients) > MOST_CLIENTS else None
            self._clients.pop(oldest, None)
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a client's connection."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its signature
        """Say nothing of clients that went away; everything else is a fault of ours."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a client of port %d was not answered", self.server_port, exc_info=error)


class Listener:
    """Keeps a server going; an address that cannot be bound is tried again every 5 s.

    `make` binds and returns the server. `failed` is called with each failure, from the
    listener's thread: that is where bindAddressHardFail ends the agent (parity A12.7).
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        make: Callable[[], BoundedServer],
        failed: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._name, self._address = name, address
        self._make, self._failed = make, failed
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of _server, against a stop() while it is being made
        self._server: BoundedServer | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_listening(self) -> bool:
        """Whether it has its address."""
        return self._server is not None

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End the server; whatever it is just doing, it keeps nobody waiting."""
        self._stopping.set()
        with self._lock:
            server = self._server
        if server:
            # wakes it at once: the next agent waits for its port
            with contextlib.suppress(OSError):
                server.socket.shutdown(socket.SHUT_RDWR)
            server.shutdown()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                server = self._make()
            except OSError as error:
                name, (host, port) = self._name, self._address
                log.warning("%s cannot listen on %s port %d: %s", name, host, port, error.strerror)
                self._failed(error)
                self._stopping.wait(RETRY_S)
                continue
            with server:
                if self._is_wanted(server):
                    server.serve_forever(poll_interval=0.1)
            return

    def _is_wanted(self, server: BoundedServer) -> bool:
        """Publish the server for stop(), unless that has been called already."""
        with self._lock:
            self._server = server
            if not self._stopping.is_set():
                return True
            self._server = None
            return False

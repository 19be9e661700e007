# SPDX-License-Identifier: Apache-2.0
"""An API server that answers exactly what a test tells it to, over real connections.

What no script says is answered rightly: lists of `objects`, and watches that wait for push().
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

Json: TypeAlias = dict[str, Any]
Query: TypeAlias = dict[str, str]

KINDS = {
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "nodes": "Node",
    "servicecidrs": "ServiceCIDR",
}


class Request(NamedTuple):
    """A request that arrived, at `at` (time.monotonic)."""

    plural: str
    verb: str
    query: Query
    authorization: str
    at: float


class Asked(BaseHTTPRequestHandler):
    """One connection; answers are written by the functions below."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    scripted: Scripted

    def do_GET(self) -> None:
        """Answer by the next script of the resource and verb."""
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        plural = url.path.rpartition("/")[2]
        verb = "watch" if query.get("watch") else "list"
        credentials = self.headers.get("Authorization", "")
        request = Request(plural, verb, query, credentials, time.monotonic())
        with contextlib.suppress(OSError):
            self.scripted.answer_to(request)(self, request)

    def reply(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        """Send the head of an answer in chunks."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """Send a chunk; an empty one ends the answer."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def cut(self) -> None:
        """Drop the connection."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: that is what many tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


Answer: TypeAlias = Callable[[Asked, Request], None]


class Scripted:
    """The server. `objects` by plural and `version` are what unscripted lists say.

    `accepts`: the only Authorization that gets no 401 ("": any).
    """

    def __init__(self, port: int, objects: Mapping[str, list[Json]]) -> None:
        self.objects: dict[str, list[Json]] = defaultdict(list, objects)
        self.version = 100
        self.requests: list[Request] = []
        self.accepts = ""
        self._scripts: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._standing: dict[tuple[str, str], Answer] = {}
        self._watches: dict[str, list[queue.Queue[bytes | None]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._released = threading.Event()
        handler = type("Handler", (Asked,), {"scripted": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for live in [one for each in self._watches.values() for one in each]:
            live.put(None)

    def script(self, plural: str, verb: str, *answers: Answer) -> None:
        """Give the next requests these answers, one each."""
        with self._lock:
            self._scripts[plural, verb] += answers

    def always(self, plural: str, verb: str, answer: Answer | None) -> None:
        """Give all requests that have no script this answer; None: the right one again."""
        with self._lock:
            self._standing.pop((plural, verb), None)
            if answer:
                self._standing[plural, verb] = answer

    def answer_to(self, request: Request) -> Answer:
        """Note a request and choose its answer."""
        key = (request.plural, request.verb)
        with self._lock:
            self.requests.append(request)
            if self.accepts and request.authorization != self.accepts:
                return status(401, "Unauthorized")
            if self._scripts[key]:
                return self._scripts[key].pop(0)
            default = self._list if request.verb == "list" else self._watch
            return self._standing.get(key, default)

    def asked(self, plural: str, verb: str) -> list[Request]:
        """Return the requests of a resource and verb so far."""
        with self._lock:
            return [one for one in self.requests if (one.plural, one.verb) == (plural, verb)]

    def push(self, plural: str, type_: str, thing: Json) -> None:
        """Send an event to the live watches."""
        self.push_bytes(plural, event(type_, thing))

    def push_bytes(self, plural: str, data: bytes | None) -> None:
        """Send bytes to the live watches; None drops them."""
        for live in self._watches[plural]:
            live.put(data)

    def hold(self, asked: Asked) -> None:
        """Say nothing more until close()."""
        self._sockets.append(asked.connection)
        self._released.wait(30)

    def _list(self, asked: Asked, request: Request) -> None:
        asked.reply(200, list_body(request.plural, self.objects[request.plural], self.version))

    def _watch(self, asked: Asked, request: Request) -> None:
        live: queue.Queue[bytes | None] = queue.Queue()
        self._sockets.append(asked.connection)
        self._watches[request.plural].append(live)
        asked.begin()
        try:
            for data in iter(live.get, None):
                asked.chunk(data)
        finally:
            self._watches[request.plural].remove(live)
        asked.cut()


def versioned(thing: Json, version: int) -> Json:
    """Return the object with a resourceVersion."""
    return {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(version)}}


def event(type_: str, thing: Json) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"type": type_, "object": thing}).encode() + b"\n"


def bookmark(plural: str, version: int) -> bytes:
    """Return a bookmark's line."""
    return event("BOOKMARK", {"kind": KINDS[plural], "metadata": {"resourceVersion": str(version)}})


def list_body(plural: str, things: Iterable[Json], version: int, token: str = "") -> bytes:
    """Return a page of a list."""
    members = [{k: v for k, v in one.items() if k not in ("kind", "apiVersion")} for one in things]
    meta = {"resourceVersion": str(version), **({"continue": token} if token else {})}
    return json.dumps({"kind": f"{KINDS[plural]}List", "metadata": meta, "items": members}).encode()


def page(things: Iterable[Json], version: int, token: str = "") -> Answer:
    """Answer a page of a list."""
    return lambda asked, request: asked.reply(
        200, list_body(request.plural, things, version, token)
    )


def status_json(code: int, reason: str, **more: Any) -> Json:
    """Return a Status."""
    return {"kind": "Status", "code": code, "reason": reason, "message": f"said {reason}", **more}


def status(code: int, reason: str, *headers: tuple[str, str], **more: Any) -> Answer:
    """Answer a Status."""
    body = json.dumps(status_json(code, reason, **more)).encode()
    return lambda asked, _: asked.reply(code, body, headers)


def text(body: bytes) -> Answer:
    """Answer 200 with any body."""
    return lambda asked, _: asked.reply(200, body)


def stream(*chunks: bytes, cut: bool = False) -> Answer:
    """Answer these chunks, then end cleanly, or `cut`."""

    def answer(asked: Asked, _: Request) -> None:
        asked.begin()
        for data in chunks:
            asked.chunk(data)
        asked.cut() if cut else asked.chunk(b"")

    return answer


def silence(*chunks: bytes) -> Answer:
    """Answer these chunks and then nothing; with none at all, not even a head."""

    def answer(asked: Asked, _: Request) -> None:
        if chunks:
            asked.begin()
        for data in chunks:
            if data:
                asked.chunk(data)
        asked.scripted.hold(asked)

    return answer


@contextlib.contextmanager
def served(port: int = 0, objects: Mapping[str, list[Json]] | None = None) -> Iterator[Scripted]:
    """A server for a while."""
    server = Scripted(port, objects or {})
    try:
        yield server
    finally:
        server.close()

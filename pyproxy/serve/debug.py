# SPDX-License-Identifier: Apache-2.0
"""Port 10249: metrics, the mode, and that the process lives (parity A13). No TLS and no names.

Handlers run in threads of their own and only call what they were handed.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import chain
from typing import NamedTuple
from urllib.parse import parse_qs

from pyproxy.meters import Meter, Spec, Type
from pyproxy.serve.exposition import CONTENT_TYPE, Exposition
from pyproxy.serve.listening import BoundedServer, Listener

log = logging.getLogger(__name__)

SILENCE_S = 10.0  # how long a client may neither read nor ask
ANSWER_S = 30.0  # how long it may take for a whole answer: Prometheus' scrapes end after 10 s

PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"
GZIP_LEVEL = 1  # 14 times smaller; the default of 6 takes four times longer for a quarter less

_HEALTHCHECK = Spec(
    "kubernetes_healthcheck",
    Type.GAUGE,
    "Whether a check of /healthz succeeded when it was last asked for (1), or failed (0).",
    ("name", "type"),
)
_HEALTHCHECKS = Spec(
    "kubernetes_healthchecks_total",
    Type.COUNTER,
    "How often a check of /healthz was asked for, by how it went.",
    ("name", "status", "type"),
)


class Page(NamedTuple):
    """An answer: its body, whole or in pieces, what that is, and the status."""

    body: bytes | Iterator[bytes]
    type: str = PLAIN
    status: int = 200


NOT_FOUND = Page(b"404 page not found\n", status=404)


class Contents:
    """What the server answers with.

    `metrics` is read for each scrape. `proxy_mode` is what /proxyMode says. `configz` gives the
    configuration in force as JSON; without it /configz is not found.
    """

    def __init__(
        self,
        metrics: Exposition,
        proxy_mode: str,
        configz: Callable[[], str] | None = None,
    ) -> None:
        self._healthy, self._asked = Meter(_HEALTHCHECK), Meter(_HEALTHCHECKS)
        slis = Exposition([lambda: (self._healthy.read(), self._asked.read())], process=False)
        self._answers: dict[str, Callable[[str], Page]] = {
            "/metrics": lambda _: Page(metrics.chunks(), CONTENT_TYPE),
            "/metrics/slis": lambda _: Page(slis.chunks(), CONTENT_TYPE),
            "/proxyMode": lambda _: Page(proxy_mode.encode()),
            "/healthz": self._healthz,
            "/healthz/ping": lambda _: Page(b"ok"),
        }
        if configz:
            self._answers["/configz"] = lambda _: Page(configz().encode(), JSON)

    def page(self, path: str, query: str) -> Page:
        """Return the answer for a path and what follows its question mark."""
        answer = self._answers.get(path)
        return answer(query) if answer else NOT_FOUND

    def _healthz(self, query: str) -> Page:
        """Answer that the process answers: that is all that kube-proxy checks (parity A13.2)."""
        self._healthy.set(1, "ping", "healthz")
        self._asked.add("ping", "success", "healthz")
        if "verbose" in parse_qs(query, keep_blank_values=True):
            return Page(b"[+]ping ok\nhealthz check passed\n")
        return Page(b"ok")


class _Handler(BaseHTTPRequestHandler):
    server: BoundedServer
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S

    def do_GET(self) -> None:
        """Answer, and end the connection: an idle one would only keep a thread."""
        path, _, query = self.path.partition("?")
        contents: Contents = self.server.context
        try:
            page = contents.page(path, query)
            # what fails mostly fails here, before a status is sent
            pieces = iter([page.body] if isinstance(page.body, bytes) else page.body)
            first = next(pieces, b"")
        except Exception:
            log.exception("%s cannot be answered", path)
            self.send_error(500)
            return
        is_gzip = page.type == CONTENT_TYPE and self._takes_gzip()
        self.send_response(page.status)
        self.send_header("Content-Type", page.type)
        self.send_header("X-Content-Type-Options", "nosniff")
        if is_gzip:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Connection", "close")
        if isinstance(page.body, bytes):
            self.send_header("Content-Length", str(len(page.body)))
            self._send(iter([first]), is_chunked=False)
        else:
            self._send(_joined(first, pieces, is_gzip=is_gzip), self.request_version != "HTTP/1.0")

    def do_HEAD(self) -> None:
        """Answer as a GET, without the body."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing: scrapes come every few seconds."""

    def _takes_gzip(self) -> bool:
        from prometheus_client.exposition import gzip_accepted  # noqa: PLC0415 - as in Exposition

        return gzip_accepted(self.headers.get("Accept-Encoding", ""))

    def _send(self, pieces: Iterator[bytes], is_chunked: bool) -> None:
        """Send the body piece by piece: whole it would take 11 MB for 10,000 services."""
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        deadline = time.monotonic() + ANSWER_S
        for piece in pieces:
            if time.monotonic() > deadline:
                # without the last chunk, so that nobody takes it for whole
                raise TimeoutError
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")


def _joined(first: bytes, rest: Iterator[bytes], *, is_gzip: bool) -> Iterator[bytes]:
    """Yield pieces that are not empty, compressed if so wanted."""
    squeeze = zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16) if is_gzip else None
    for piece in chain([first], rest):
        yield from filter(None, [squeeze.compress(piece) if squeeze else piece])
    if squeeze:
        yield squeeze.flush()


def debug_server(
    address: tuple[str, int],
    contents: Contents,
    failed: Callable[[OSError], None] = lambda _: None,
) -> Listener:
    """Return the server of an address, to be started; `failed` as the Listener calls it."""
    return Listener("metrics", address, lambda: BoundedServer(address, _Handler, contents), failed)

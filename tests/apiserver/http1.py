# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as far as a server of the Kubernetes API needs it (RFC 9112)."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import uuid
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.apiserver.answers import Answer, pretty

# Go's buffer: answers that fit say their length, others come in chunks.
LENGTH_KNOWN_BYTES = 4096
CHUNK_BYTES = 1 << 16
GZIP_BYTES = 128 * 1024
PEOPLE = ("curl", "Wget", "Mozilla")


class HttpRequest(NamedTuple):
    """A request; header names are in lower case, of a repeated option the last one counts."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may use the connection again."""
        return self.headers.get("connection", "").lower() != "close"

    @property
    def wants_pretty(self) -> bool:
        """Whether a person reads the answer (the API server goes by User-Agent and pretty)."""
        if "pretty" in self.query:
            return self.query["pretty"] not in {"0", "false"}
        return self.headers.get("user-agent", "").startswith(PEOPLE)


async def read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    """Return the next request, None where the client has closed; ValueError if it is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _version = first.split(" ")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return HttpRequest(method, unquote(parts.path), query, headers, body)


class Exchange:
    """Writes the answer to one request; `is_over`: the connection can't take another."""

    def __init__(self, writer: asyncio.StreamWriter, request: HttpRequest) -> None:
        self.request = request
        self.is_over = False
        self._writer = writer
        self._on_status: Callable[[int], None] = _ignore

    def on_status(self, call: Callable[[int], None]) -> None:
        """Call with the status once the answer begins."""
        self._on_status = call

    async def answer(self, answer: Answer, *, as_is: bool = False) -> None:
        """Send a whole answer; `as_is`: the body isn't made pretty."""
        head, body = self._whole(answer, as_is=as_is)
        self._writer.write(head)
        self._writer.write(body)
        await self._writer.drain()

    async def slow_answer(self, answer: Answer, size: int, pause_s: float) -> None:
        """Send a whole answer, `size` bytes at a time with pauses between."""
        await self._drip(b"".join(self._whole(answer)), size, pause_s)

    async def answer_half(self, answer: Answer) -> None:
        """Begin a chunk, send half of it, and drop the connection."""
        self.begin(answer)
        self._writer.write(b"%x\r\n" % len(answer.body) + answer.body[: len(answer.body) // 2])
        await self.drop()

    def begin(self, answer: Answer) -> None:
        """Send the head of an answer that comes in chunks."""
        headers = (*_headers(answer), ("Transfer-Encoding", "chunked"))
        self._writer.write(self._head(answer.status, headers))

    async def chunk(self, data: bytes) -> None:
        """Send a chunk."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def slow_chunk(self, data: bytes, size: int, pause_s: float) -> None:
        """Send a chunk, `size` bytes at a time."""
        await self._drip(b"%x\r\n%b\r\n" % (len(data), data), size, pause_s)

    async def half_chunk(self, data: bytes) -> None:
        """Announce a chunk, send half of it, and drop the connection."""
        self._writer.write(b"%x\r\n%b" % (len(data), data[: len(data) // 2]))
        await self.drop()

    async def finish(self) -> None:
        """End an answer in chunks cleanly."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def drop(self) -> None:
        """Close the connection once what was written is sent."""
        self.is_over = True
        self._writer.close()

    def reset(self) -> None:
        """Close the connection at once: the client sees it reset."""
        reset(self._writer)

    async def _drip(self, text: bytes, size: int, pause_s: float) -> None:
        for start in range(0, len(text), size):
            self._writer.write(text[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(pause_s)

    def _whole(self, answer: Answer, *, as_is: bool = False) -> tuple[bytes, bytes]:
        body, headers = answer.body, list(_headers(answer))
        if self.request.wants_pretty and answer.content_type == "application/json" and not as_is:
            body = pretty(body)
        if len(body) > GZIP_BYTES and "gzip" in self.request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 1)
            headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        if len(body) <= LENGTH_KNOWN_BYTES:
            headers.append(("Content-Length", str(len(body))))
        else:
            headers.append(("Transfer-Encoding", "chunked"))
            parts = (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        return self._head(answer.status, tuple(headers)), body

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
        self._on_status(status)
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{k}: {v}" for k, v in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the client sees it reset (RST), whatever was to be sent."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def _headers(answer: Answer) -> tuple[tuple[str, str], ...]:
    """Return the headers of every answer; those of priority and fairness need a known user."""
    fairness = (
        ("X-Kubernetes-Pf-Flowschema-Uid", str(uuid.uuid4())),
        ("X-Kubernetes-Pf-Prioritylevel-Uid", str(uuid.uuid4())),
    )
    return (
        ("Audit-Id", str(uuid.uuid4())),
        ("Cache-Control", "no-cache, private"),
        ("Content-Type", answer.content_type),
        *answer.headers,
        *(() if answer.status == 401 else fairness),
        ("Date", formatdate(usegmt=True)),
    )


def _ignore(_status: int) -> None:
    """Nobody wants to know."""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"

# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection of a server that never waits: h11 reads the protocol, this moves bytes."""

from __future__ import annotations

import contextlib
import email.utils
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

import h11

_CHUNK_BYTES = 16 << 10
_HEAD_BYTES = 16 << 10
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
NOSNIFF = ("X-Content-Type-Options", "nosniff")


class Reply(NamedTuple):
    """What is answered; Date, Content-Length and Connection come by themselves."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Answer: TypeAlias = Callable[[str], Reply]
"""Who answers any method: the path without query, decoded, to a reply. It must not block."""

NOT_FOUND = Reply(404, b"404 page not found\n", (_TEXT, NOSNIFF))
_BAD_REQUEST = Reply(400, b"400 Bad Request", (_TEXT, ("Connection", "close")))


class Limits(NamedTuple):
    """How many connections there may be, and how much time or how many bytes one may take.

    `request_s`: to ask, and to take the answer. `idle_s`: to ask again. `linger_s`: to close, once
    it was answered for the last time. Who sends more than `request_bytes` in one request, which
    nobody reads, has to connect again.
    """

    connections: int = 512
    request_s: float = 10.0
    idle_s: float = 60.0
    linger_s: float = 1.0
    request_bytes: int = 1 << 20


class Connection:
    """A client. `deadline` is by when it has to do what it is waited for, by the clock."""

    def __init__(
        self, sock: socket.socket, answer: Answer, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self.sock = sock
        self._answer = answer
        self._limits = limits
        self._clock = clock
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self._out = b""
        self._taken = 0
        self._is_idle = False
        self._lingers = False
        self.has_asked = False
        self.is_over = False
        self.deadline = clock() + limits.request_s

    def handle(self, *, readable: bool) -> bool:
        """Go on; return whether it waits to write. Raises OSError where the client has gone.

        `has_asked`: something was answered. `is_over`: it is to be closed.
        """
        self.has_asked = False
        if readable:
            self._read()
        self._go_on()
        return bool(self._out)

    def _read(self) -> None:
        try:
            data = self.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if self._lingers:
            # what is read no more would have the kernel reset the connection, answer and all
            self.is_over = not data
            return
        if self._is_idle:
            self._is_idle, self.deadline = False, self._clock() + self._limits.request_s
        self._taken += len(data)
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            self._refuse(error)

    def _go_on(self) -> None:
        """Answer and write in turns, so that nobody is answered who does not read."""
        while not self.is_over:
            self._send()
            if self._out or self._lingers or not self._step():
                return

    def _send(self) -> None:
        if self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self.sock.send(self._out) :]

    def _step(self) -> bool:
        """Take what comes next; return False where more has to come first."""
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._refuse(error)
            return True
        if isinstance(event, h11.Request):
            self._reply(event.method, self._reply_to(event.target))
        elif event is h11.PAUSED or isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            self._next()
        elif event is h11.NEED_DATA:
            if self._taken > self._limits.request_bytes:
                self._linger()
            return False
        return True

    def _reply_to(self, target: bytes) -> Reply:
        try:
            path = unquote(urlsplit(target.decode("ascii")).path)
        except ValueError:
            return _BAD_REQUEST
        return self._answer(path)

    def _reply(self, method: bytes, reply: Reply) -> None:
        headers = [
            *reply.headers,
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Content-Length", str(len(reply.body))),
        ]
        reason = HTTPStatus(reply.status).phrase
        head = h11.Response(status_code=reply.status, headers=headers, reason=reason.encode())
        self._out += self._http.send(head) or b""
        if self._http.our_state is not h11.SWITCHED_PROTOCOL:  # as CONNECT has it
            body = b"" if method == b"HEAD" else reply.body
            self._out += self._http.send(h11.Data(data=body)) or b""
            self._out += self._http.send(h11.EndOfMessage()) or b""
        self.has_asked = True

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no HTTP, unless an answer is under way."""
        # h11 raises it from a frame that holds it: only the garbage collector would find both
        error.__traceback__ = None
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._reply(b"GET", _BAD_REQUEST)
        # it is small: what the socket does not take at once is lost with the connection
        self._send()
        self._out = b""
        self._linger()

    def _next(self) -> None:
        """After a whole request: wait for another one, if there may be one."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._taken = 0
            self._is_idle, self.deadline = True, self._clock() + self._limits.idle_s
        else:
            self._linger()

    def _linger(self) -> None:
        """Say that nothing more comes, and wait until the client has read that."""
        if not self._lingers:
            self._lingers, self.deadline = True, self._clock() + self._limits.linger_s
            self.sock.shutdown(socket.SHUT_WR)

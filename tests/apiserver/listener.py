# SPDX-License-Identifier: Apache-2.0
"""The listening socket and its connections; it can go away and come back on the same port."""

from __future__ import annotations

import asyncio
import socket
import ssl

from tests.apiserver.front import respond
from tests.apiserver.http1 import Exchange, read_request, reset
from tests.apiserver.state import State

HEAD_BYTES = 1 << 18
BACKLOG = 512


class Listener:
    """Accepts connections at the host and port of the settings, over TLS if `context` is given."""

    def __init__(self, state: State, context: ssl.SSLContext | None) -> None:
        self._state = state
        self._context = context
        self._server: asyncio.Server | None = None
        self._mute: socket.socket | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = state.settings.port

    async def start(self) -> None:
        """Listen, unless it does; raises OSError."""
        if self._server is not None:
            return
        self._end_mute()
        self._server = await asyncio.start_server(
            self._serve,
            self._state.settings.host,
            self.port,
            ssl=self._context,
            backlog=BACKLOG,
            limit=HEAD_BYTES,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, *, mute: bool = False) -> None:
        """Drop all connections (reset) and refuse new ones; `mute`: let them open, say nothing."""
        if self._server is not None:
            self._server.close()
            self._server = None
        conversations = list(self._open.items())
        for task, writer in conversations:
            reset(writer)
            task.cancel()
        if conversations:
            await asyncio.wait([task for task, _ in conversations])
        self._end_mute()
        if mute:
            # The kernel completes handshakes for a listening socket that nobody accepts from.
            self._mute = socket.create_server(
                (self._state.settings.host, self.port), family=self._family(), backlog=BACKLOG
            )

    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self._state.settings.host else socket.AF_INET

    def _end_mute(self) -> None:
        if self._mute is not None:
            self._mute.close()
            self._mute = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:
            # Its handshake was under way when the server stopped.
            reset(writer)
            return
        self._open[task] = writer
        try:
            await self._converse(reader, writer)
        except (ConnectionError, ValueError, asyncio.LimitOverrunError, ssl.SSLError):
            reset(writer)
        except asyncio.CancelledError:
            # Only stop() cancels; from 3.11.3 on asyncio would print this end as a failure.
            pass
        finally:
            del self._open[task]
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert") or None
        while (request := await read_request(reader)) is not None:
            out = Exchange(writer, request)
            await respond(self._state, out, reader, certificate)
            if out.is_over or not request.keeps_alive:
                return

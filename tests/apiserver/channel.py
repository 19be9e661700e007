# SPDX-License-Identifier: Apache-2.0
"""The two ways to a server: a thread of this process, or the control socket of another."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from tests.apiserver.answers import Json
from tests.apiserver.commands import Commands, opened
from tests.apiserver.settings import Settings

CALL_TIMEOUT_S = 60.0


class CommandError(Exception):
    """A command of the server failed; says why in one sentence."""


class Channel(Protocol):
    """Runs commands of a server, one at a time."""

    def call(self, name: str, arguments: Json) -> Any:
        """Run a command and return its JSON value; raises CommandError."""

    def close(self) -> None:
        """Let go of the server; it ends if it runs in this process."""


class ThreadChannel:
    """A server in a thread of this process, listening once this is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        ready: Future[Commands] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        try:
            self._commands = ready.result(CALL_TIMEOUT_S)
        except BaseException:
            self._end()
            raise

    def call(self, name: str, arguments: Json) -> Any:
        """Run a command and return its JSON value; raises CommandError."""
        call = asyncio.run_coroutine_threadsafe(self._commands.call(name, arguments), self._loop)
        try:
            return call.result(CALL_TIMEOUT_S)
        except Exception as error:
            raise CommandError(_sentence(error)) from error

    def close(self) -> None:
        """End the server."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._commands.close(), self._loop).result(CALL_TIMEOUT_S)
        self._end()

    def _run(self, ready: Future[Commands]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            ready.set_result(self._loop.run_until_complete(opened(self._settings)))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            ready.set_exception(error)
        self._loop.run_forever()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()


class SocketChannel:
    """A server in another process, by its control socket: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CALL_TIMEOUT_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")

    def call(self, name: str, arguments: Json) -> Any:
        """Run a command and return its JSON value; raises CommandError."""
        self._socket.sendall(json.dumps({"call": name, "with": arguments}).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise CommandError("the API server of the tests has ended")
        reply = json.loads(line)
        if "error" in reply:
            raise CommandError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Hang up; the server goes on."""
        self._lines.close()
        self._socket.close()


def reply_line(result: Any, error: Exception | None = None) -> bytes:
    """Return the line that a control socket answers."""
    value = {"result": result} if error is None else {"error": _sentence(error)}
    return json.dumps(value).encode() + b"\n"


def _sentence(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__

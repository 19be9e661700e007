# SPDX-License-Identifier: Apache-2.0
"""What `pyproxy probe` is answered: by this very agent, whoever else runs on the node.

/healthz cannot say so: on a node's own network its port is the running agent's, and whoever asks
for one that waits to take over would be answered by the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyproxy.errors import ConfigError
from pyproxy.serve.connection import NOT_FOUND, Reply
from pyproxy.serve.http import HttpServer, Listener, listening_at

READY, LIVE = "/readyz", "/livez"
_STARTING = "it is starting"


def _well() -> str:
    return ""


class Probes:
    """Answers by a Unix socket. `lacks` says why the agent is not ready, `ails` why it had better
    be started again, "" where there is nothing; both are called by the server's thread.
    """

    def __init__(self) -> None:
        self.lacks: Callable[[], str] = lambda: _STARTING
        self.ails: Callable[[], str] = _well

    def serve(self, http: HttpServer, path: Path | None) -> None:
        """Begin to answer, if there is where."""
        if path is None:
            return
        try:
            http.open([Listener(listening_at(path), self.answer)])
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on {path}: {error.strerror}",
                "give --probe-socket a path in a directory that root may write",
            ) from error

    def answer(self, path: str) -> Reply:
        """Answer a request."""
        if path not in {READY, LIVE}:
            return NOT_FOUND
        why = self.lacks() if path == READY else self.ails()
        return Reply(503 if why else 200, f"{why or 'ok'}\n".encode())

# SPDX-License-Identifier: Apache-2.0
"""pyproxy probe."""

from __future__ import annotations

import socket
from pathlib import Path

from pyproxy.cli.show import print_lines
from pyproxy.errors import PyproxyError

TIMEOUT_S = 4.0
_PATHS = {"ready": "/readyz", "live": "/livez"}


def ask(path: Path, what: str) -> int:
    """Print what the agent with this socket says; return 0 if all is well, else 1."""
    try:
        answer = _get(path, _PATHS[what])
    except OSError as error:
        raise PyproxyError(
            f"no agent answers at {path}: {error.strerror or error}",
            "give the --probe-socket that 'pyproxy run' has",
        ) from error
    head, _, body = answer.partition(b"\r\n\r\n")
    print_lines([body.decode(errors="replace").strip()])
    return 0 if head.split(b" ", 2)[1:2] == [b"200"] else 1


def _get(path: Path, target: str) -> bytes:
    """Return an answer as it comes: HTTP's own client takes longer to load than all of this."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(path))
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := sock.recv(4096):
            parts.append(part)
        return b"".join(parts)

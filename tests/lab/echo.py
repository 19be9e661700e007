# SPDX-License-Identifier: Apache-2.0
"""Bulk data both ways at once. Run as a script, standard library only.

    python3 -I -S echo.py serve PORT          gives back what comes in; prints "ready"
    python3 -I -S echo.py ask ADDRESS PORT N  sends N random bytes while it reads them back

`ask` exits 0 when as many bytes came back and their SHA-256 is that of what was sent; otherwise
it says on stderr what went wrong.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading

CHUNK = 1 << 16
TIMEOUT_S = 20


def give_back(connection: socket.socket) -> None:
    """Send everything back until the client has no more."""
    with connection:
        while data := connection.recv(CHUNK):
            connection.sendall(data)


def serve(port: int) -> None:
    """Answer for ever, in both families."""
    server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=give_back, args=(connection,), daemon=True).start()


def send(connection: socket.socket, data: bytes) -> None:
    """Send all, then say that there is no more."""
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def ask(address: str, port: int, count: int) -> str:
    """Return what went wrong, "" if nothing did."""
    data = os.urandom(count)
    back, received = hashlib.sha256(), 0
    with socket.create_connection((address, port), TIMEOUT_S) as connection:
        sender = threading.Thread(target=send, args=(connection, data), daemon=True)
        sender.start()
        while part := connection.recv(CHUNK):
            back.update(part)
            received += len(part)
        sender.join(TIMEOUT_S)
    if received != count:
        return f"{received} of {count} bytes came back"
    return "" if back.digest() == hashlib.sha256(data).digest() else "other bytes came back"


def main() -> None:
    """Do what the first argument says."""
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    sys.exit(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])) or 0)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""TCP Fast Open (RFC 7413), either end of it; the standard library alone.

    quick.py serve NAME ADDRESS PORT       answers each connection with NAME and what it was sent
    quick.py ask ADDRESS PORT TIMES        asks so often, one connection after the other

`serve` prints "ready" when it listens. `ask` prints a JSON list: of each connection the answer,
whether the data went with the SYN and was taken, and if not what the kernel says of that.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

OPTIONS_AT, FAIL_AT = 5, 7  # tcpi_options and tcpi_fastopen_client_fail in struct tcp_info
FAILURES = ("", "no cookie", "data not acknowledged", "SYN sent again")  # by its two bits
TCPI_OPT_SYN_DATA = 32  # include/uapi/linux/tcp.h
QUEUE = 16
LIMIT = struct.pack("@ll", 5, 0)  # struct timeval


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that takes connections whose SYN has data."""
    domain = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(domain, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, QUEUE)
    server.listen(QUEUE)
    return server


def serve(name: str, address: str, port: int) -> None:
    """Answer until the end."""
    server = listen(address, port)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(name.encode() + b" " + connection.recv(4096))


def ask(address: str, port: int) -> dict[str, object]:
    """Ask once, with the data in the SYN if the kernel has a cookie for it."""
    domain = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(domain, socket.SOCK_STREAM) as client:
        # a socket that Python times does not wait for the handshake
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            client.setsockopt(socket.SOL_SOCKET, option, LIMIT)
        client.sendto(b"data", socket.MSG_FASTOPEN, (address, port))
        answer = client.recv(4096).decode()
        found = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    in_syn = bool(found[OPTIONS_AT] & TCPI_OPT_SYN_DATA)
    return {"answer": answer, "in_syn": in_syn, "why": FAILURES[found[FAIL_AT] >> 1 & 3]}


def main(what: str, *arguments: str) -> None:
    """Be the end that is asked for."""
    if what == "serve":
        name, address, port = arguments
        serve(name, address, int(port))
    else:
        address, port, times = arguments
        found = [ask(address, int(port)) for _ in range(int(times))]
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

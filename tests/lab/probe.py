# SPDX-License-Identifier: Apache-2.0
"""A client that makes connections on demand. Run as a script, standard library only.

One JSON object a line comes in on stdin, one goes out on stdout for each; `ask_for` in
prober.py is its counterpart. A destination is {protocol, family, address, port, connected,
timeout_s, source_port, fin}: protocol tcp or udp; family 4, 6 or 46 (an IPv6 socket and an
IPv4-mapped address); connected: a UDP socket connects first, else it uses sendto; source_port: bind
to it, 0 for any; fin: TCP ends by FIN, else by a reset.

An outcome is {who, seen, error, step, peer, source, seconds, at}: who answered, the client's
address as the server saw it, the errno's name ("" for none, TIMEOUT for a wait in vain), the
call that failed, getpeername, recvfrom's address, and CLOCK_MONOTONIC at the end.
"""

from __future__ import annotations

import errno
import json
import resource
import select
import socket
import struct
import sys
import threading
import time
from typing import Any

Fields = dict[str, Any]
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def text(address: tuple[Any, ...]) -> str:
    """Return a socket address as `address port`."""
    return f"{address[0]} {address[1]}"


def target(to: Fields) -> tuple[str, int]:
    """Return the destination's address as its socket's family writes it."""
    mapped = "::ffff:" if to["family"] == 46 else ""
    return mapped + to["address"], to["port"]


def make_socket(to: Fields) -> socket.socket:
    """Return an unconnected socket for the destination."""
    family = socket.AF_INET if to["family"] == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if to["protocol"] == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    sock.settimeout(to.get("timeout_s", 3.0))
    if kind == socket.SOCK_STREAM and not to.get("fin"):
        # A close that resets leaves no TIME_WAIT: thousands of draws must not use up the ports.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    if to.get("source_port"):
        # Two sockets may have one port: what they are connected to tells them apart.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", to["source_port"]))
    return sock


def failure(step: str, error: OSError) -> Fields:
    """Return what is said of a failed call."""
    name = "TIMEOUT" if isinstance(error, TimeoutError) and error.errno is None else ""
    return {"step": step, "error": name or errno.errorcode.get(error.errno or 0, str(error))}


def exchange(sock: socket.socket, to: Fields) -> Fields:
    """Send one question on a socket, wait for the answer, return the outcome."""
    step = "send"
    try:
        if to["protocol"] == "udp" and not to.get("connected"):
            step = "sendto"
            sock.sendto(b"?\n", target(to))
        else:
            sock.sendall(b"?\n")
        step = "recv"
        answer, source = sock.recvfrom(4096)
    except OSError as error:
        return failure(step, error)
    if not answer:
        return {"step": "recv", "error": "EOF"}
    who, seen = answer.decode().strip().split(" ", 1)
    return {"who": who, "seen": seen, "source": text(source) if source else ""}


def connect(sock: socket.socket, to: Fields) -> Fields:
    """Connect where the destination asks for it; return getpeername or the failure."""
    if to["protocol"] == "udp" and not to.get("connected"):
        return {}
    try:
        sock.connect(target(to))
        return {"peer": text(sock.getpeername())}
    except OSError as error:
        return failure("connect", error)


def converse(to: Fields) -> Fields:
    """Make a socket, ask once, close it; return the outcome."""
    started = time.monotonic()
    outcome: Fields = {"who": "", "seen": "", "error": "", "step": "", "peer": "", "source": ""}
    with make_socket(to) as sock:
        outcome.update(connect(sock, to))
        if not outcome["error"]:
            outcome.update(exchange(sock, to))
    outcome["at"] = time.monotonic()
    outcome["seconds"] = outcome["at"] - started
    return outcome


def crowd(to: Fields, count: int) -> list[Fields]:
    """Connect `count` sockets at once, ask on all of them, close them; return the outcomes."""
    sockets = [make_socket(to) for _ in range(count)]
    for sock in sockets:
        sock.setblocking(False)
        sock.connect_ex(target(to))
    deadline = time.monotonic() + to["timeout_s"]
    waiting = {sock.fileno() for sock in sockets}
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLOUT)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(1000 * left):
            poll.unregister(number)
            waiting.discard(number)
    outcomes = [crowd_member(sock, to, sock.fileno() in waiting) for sock in sockets]
    for sock in sockets:
        sock.close()
    return outcomes


def crowd_member(sock: socket.socket, to: Fields, waits: bool) -> Fields:
    """Return the outcome of one of the crowd's sockets, which may wait for its connection yet."""
    empty: Fields = {"who": "", "seen": "", "error": "", "step": "", "peer": "", "source": ""}
    if waits:
        return {**empty, "step": "connect", "error": "TIMEOUT"}
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        return {**empty, **failure("connect", OSError(number, ""))}
    sock.settimeout(to["timeout_s"])
    return {**empty, **exchange(sock, to)}


class Stream:
    """New conversations one after the other, in a thread, until it is told to stop."""

    def __init__(self, to: Fields) -> None:
        self.to = to
        self.outcomes: list[Fields] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        pause = self.to.get("pause_s", 0.0)
        while not self.stopping.is_set():
            self.outcomes.append(converse(self.to))
            if pause:
                self.stopping.wait(pause)

    def stop(self) -> list[Fields]:
        """Return all outcomes."""
        self.stopping.set()
        self.thread.join()
        return self.outcomes


class Probe:
    """The state between commands: sockets held open and streams running, by their names."""

    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.streams: dict[str, Stream] = {}

    def draw(self, command: Fields) -> Any:
        """Converse `count` times; return the outcomes."""
        return [converse(command["to"]) for _ in range(command["count"])]

    def crowd(self, command: Fields) -> Any:
        """Connect `count` sockets at once; return the outcomes."""
        return crowd(command["to"], command["count"])

    def open(self, command: Fields) -> Any:
        """Make (and connect) a socket that is kept under `name`; return {peer} or the error."""
        sock = make_socket(command["to"])
        self.sockets[command["name"]] = sock
        return {"error": "", "step": "", "peer": "", **connect(sock, command["to"])}

    def ask(self, command: Fields) -> Any:
        """Ask `count` times on the socket kept under `name`; return the outcomes."""
        sock = self.sockets[command["name"]]
        empty = {"who": "", "seen": "", "error": "", "step": "", "source": ""}
        return [{**empty, **exchange(sock, command["to"])} for _ in range(command["count"])]

    def close(self, command: Fields) -> Any:
        """Close the socket kept under `name`."""
        self.sockets.pop(command["name"]).close()

    def start(self, command: Fields) -> Any:
        """Start a stream under `name`."""
        self.streams[command["name"]] = Stream(command["to"])

    def seen(self, command: Fields) -> Any:
        """Return how many outcomes the stream `name` has, and who answered in the last 50."""
        outcomes = self.streams[command["name"]].outcomes
        return {"count": len(outcomes), "last": sorted({o["who"] for o in outcomes[-50:]})}

    def stop(self, command: Fields) -> Any:
        """Stop the stream `name` and return its outcomes."""
        return self.streams.pop(command["name"]).stop()


def main() -> None:
    """Answer commands until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    probe = Probe()
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(probe, command["op"])(command)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""HTTP on any number of listening sockets from one thread: a node may have thousands of them.

What is asked for is small and is answered from memory, so that nobody waits for anybody. Whoever
is slow, silent or many costs no more than Limits say. The protocol is h11's matter.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.serve.connection import Answer, Connection, Limits

log = logging.getLogger(__name__)

STOP_S = 1.0
_BACKLOG = 1024
_AT_ONCE = 32  # connections that are accepted before others have their turn
_PAUSE_S = 0.1
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_Ready: TypeAlias = Callable[[int], None]
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Listener(NamedTuple):
    """A listening socket, and who answers what comes by it."""

    sock: socket.socket
    answer: Answer


def listening(host: str, port: int, *, both: bool = False) -> socket.socket:
    """Return a socket that listens on an IP address as text; raises OSError.

    `both`: an address of all zeros, of either family, stands for both, as it does to Go's net
    package and so for kube-proxy's own servers. Else an IPv6 one takes no IPv4.
    """
    if both and host == "0.0.0.0":
        with contextlib.suppress(OSError):
            return listening("::", port, both=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = not (both and host == "::")
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def listening_at(path: Path) -> socket.socket:
    """Return a Unix socket that listens at a path, for root alone; raises OSError.

    What an earlier process has left there is replaced.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


class HttpServer:
    """One thread for all listeners and connections; its methods are called from others.

    start() lets this process have as many files as it may: each listener is one.
    """

    def __init__(
        self, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector.register(self._reader, _READ, self._woken)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # what each waits for, in the order in which they have last asked
        self._connections: dict[Connection, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._thread.start()

    def stop(self) -> None:
        """Close everything, whatever it is just doing."""
        self._stopping.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def open(self, listeners: Iterable[Listener]) -> None:
        """Take connections from these sockets, too."""
        found = list(listeners)
        self._commands.put(lambda: self._open(found))
        self._wake()

    def close(self, sockets: Iterable[socket.socket]) -> None:
        """Close listening sockets; their ports are free when this returns.

        Who is connected already is answered yet.
        """
        found, done = list(sockets), threading.Event()

        def command() -> None:
            self._close(found)
            done.set()

        self._commands.put(command)
        self._wake()
        if self._thread.is_alive():
            done.wait(STOP_S)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake
            self._writer.send(b"\0")

    def _run(self) -> None:
        while not self._stopping.is_set():
            for key, events in self._selector.select(self._patience()):
                ready: _Ready = key.data
                ready(events)
            self._end_late()
        self._end()

    def _end(self) -> None:
        """Close all there is, and what was handed over meanwhile."""
        self._obey()
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._writer.close()

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            self._reader.recv(4096)
        self._obey()

    def _obey(self) -> None:
        while not self._commands.empty():
            self._commands.get()()

    def _open(self, listeners: list[Listener]) -> None:
        for each in listeners:
            self._selector.register(each.sock, _READ, self._accepting(each))

    def _accepting(self, listener: Listener) -> _Ready:
        return lambda _events: self._accept(listener)

    def _close(self, sockets: list[socket.socket]) -> None:
        for each in sockets:
            with contextlib.suppress(KeyError, ValueError):  # it is none of ours
                self._selector.unregister(each)
            each.close()

    def _accept(self, listener: Listener) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = listener.sock.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._make_room()
                return
            if len(self._connections) >= self._limits.connections:
                self._drop(next(iter(self._connections)))
            sock.setblocking(False)
            made = Connection(sock, listener.answer, self._limits, self._clock)
            self._connections[made] = _READ
            self._selector.register(sock, _READ, self._serving(made))

    def _make_room(self) -> None:
        """Give up who has waited for longest; where there is nobody, give others a moment."""
        if self._connections:
            self._drop(next(iter(self._connections)))
        else:
            self._stopping.wait(_PAUSE_S)

    def _serving(self, one: Connection) -> _Ready:
        return lambda events: self._serve(one, events)

    def _serve(self, one: Connection, events: int) -> None:
        if one not in self._connections:
            return
        try:
            mask = _WRITE if one.handle(readable=bool(events & _READ)) else _READ
        except OSError:  # it has gone
            one.is_over = True
        except Exception:
            # whatever anybody sends, it is not worth the agent, which ends when a thread does
            log.exception("a request was not answered")
            one.is_over = True
        if one.is_over:
            self._drop(one)
            return
        before = self._connections.pop(one) if one.has_asked else self._connections[one]
        self._connections[one] = mask
        if mask != before:
            self._selector.modify(one.sock, mask, self._serving(one))

    def _drop(self, one: Connection) -> None:
        self._connections.pop(one)
        self._selector.unregister(one.sock)
        one.sock.close()

    def _patience(self) -> float | None:
        """Return for how many seconds nobody can be late."""
        if not self._connections:
            return None
        return max(min(one.deadline for one in self._connections) - self._clock(), 0.0)

    def _end_late(self) -> None:
        now = self._clock()
        for one in [each for each in self._connections if each.deadline <= now]:
            self._drop(one)

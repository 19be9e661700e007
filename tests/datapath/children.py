# SPDX-License-Identifier: Apache-2.0
"""Functions run in forked children that have joined a cgroup and a network namespace."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeAlias, TypeVar

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
TIMEOUT_S = 30.0
# the virtual machine of the kernels layer is up to 36 times slower
GUEST_TIMEOUT_S = 900.0

# what the broker is asked for: domain, type and protocol of a socket
REQUEST = "iii"

T = TypeVar("T")


def patience_s() -> float:
    """Return how long to wait for a child before it counts as hung."""
    return GUEST_TIMEOUT_S if os.environ.get("PYPROXY_GUEST") else TIMEOUT_S


class Where(NamedTuple):
    """What a child joins before it begins; None: it stays where the tests are."""

    namespace: Path | None = None
    cgroup: Path | None = None

    def enter(self) -> None:
        """Move the calling process there, its only thread at least."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.cgroup:
            (self.cgroup / "cgroup.procs").write_text("0")
        if self.namespace:
            with self.namespace.open("rb") as file:
                if libc.setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {self.namespace}")


class Board:
    """Two numbers in memory that parent and children share: a stop sign and a progress."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def stopped(self) -> bool:
        """Whether the child was told to end."""
        return bool(self._numbers[0])

    def stop(self) -> None:
        """Tell the child to end."""
        self._numbers[0] = 1

    @property
    def progress(self) -> int:
        """How far the child is."""
        return self._numbers[1]

    @progress.setter
    def progress(self, value: int) -> None:
        self._numbers[1] = value


Work: TypeAlias = Callable[[Board], T]


class Child(Generic[T]):
    """A forked child that runs `work`; its result, or its exception, is fetched by result()."""

    def __init__(self, where: Where, work: Callable[[], T]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._read)
            _serve(write, where, work)
        os.close(write)

    def result(self) -> T:
        """Wait for the child; return what its function returned or raise what it raised."""
        try:
            raw = _read_all(self._read, time.monotonic() + patience_s())
        finally:
            self.end()
        if not raw:
            raise ChildProcessError(f"the child {self.pid} ended without a result")
        good, value = pickle.loads(raw)  # noqa: S301 - our own child wrote it
        if not good:
            raise value
        return value  # type: ignore[no-any-return] # what work() returned

    def end(self) -> None:
        """Kill the child if it still runs, and reap it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._read)
            self.pid = 0


def _serve(write: int, where: Where, work: Callable[[], Any]) -> NoReturn:
    """Run `work`, send what came of it, and end without any of pytest's leave-taking."""
    status = 1
    try:
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(_outcome(where, work), pipe)
        status = 0
    finally:
        os._exit(status)


def _outcome(where: Where, work: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        where.enter()
        return True, work()
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return False, error


def _read_all(fd: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("the child did not finish in time")
        part = os.read(fd, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def run(where: Where, work: Callable[[], T]) -> T:
    """Run `work` in a child and return its result; bounded."""
    return Child(where, work).result()


@contextmanager
def running(where: Where, work: Work[T]) -> Iterator[tuple[Board, Child[T]]]:
    """Run `work` beside the block, which stops it by its board and then fetches its result."""
    board = Board()
    child = Child(where, lambda: work(board))
    try:
        yield board, child
    finally:
        child.end()


class Broker:
    """A child that makes sockets somewhere else and hands them over.

    A socket belongs for good to the cgroup and the namespace of the process that made it, so
    a test calls connect() and sendto() itself and is translated like a process over there.
    """

    def __init__(self, where: Where) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child = Child(where, lambda: self._make_sockets(theirs))
        theirs.close()

    def _make_sockets(self, theirs: socket.socket) -> None:
        self._ours.close()
        while request := theirs.recv(64):
            try:
                made = socket.socket(*struct.unpack(REQUEST, request))
            except OSError as error:
                theirs.send(struct.pack("i", error.errno))
                continue
            with made:
                socket.send_fds(theirs, [struct.pack("i", 0)], [made.fileno()])
            theirs.send(b"closed")

    def socket(self, domain: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket; raises OSError where the kernel has no such protocol."""
        self._ours.send(struct.pack(REQUEST, domain, kind, protocol))
        reply, descriptors, _, _ = socket.recv_fds(self._ours, 64, 1)
        (number,) = struct.unpack("i", reply)
        if number:
            raise OSError(number, os.strerror(number))
        # from here on the descriptor is the only one: closing it ends the socket
        self._ours.recv(64)
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        """End the child."""
        self._ours.close()
        self._child.end()

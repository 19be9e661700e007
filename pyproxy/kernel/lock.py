# SPDX-License-Identifier: Apache-2.0
"""One agent a run-dir and a bpffs root: the locks that the running agent holds.

Beside them is the place of the one that is to take over (Turn). All of them are the kernel's: it
lets go of them when their holder dies, however that comes about, and wakes who waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import ConfigError, PyproxyError

LOCK = "agent.lock"
TURN = "next.lock"
ASKING_S = 0.5
_TURN_BYTES = 4096

_OWN = (
    "stop it, give each agent its own --run-dir, --bpffs-root and --cgroup-root, or take over from "
    "it with --take-over"
)


class AgentRunningError(PyproxyError):
    """Another agent holds the lock of this run-dir."""


class Lock:
    """Held by the agent for as long as it lives; the kernel lets go of it when it dies.

    Both its run-dir and its bpffs root are locked: two agents on one set of maps would hand
    out the same ids and slots, whatever run-dirs they have. With `waits` the constructor blocks
    until both are free, else it raises AgentRunningError where one is not.
    """

    def __init__(self, run_dir: Path, bpffs_root: Path, *, waits: bool = False) -> None:
        self._fd = _open_file(run_dir / LOCK)
        try:
            self._root = _open_directory(bpffs_root)
            try:
                self._take(run_dir, bpffs_root, waits=waits)
            except BaseException:
                os.close(self._root)
                raise
        except BaseException:
            os.close(self._fd)
            raise
        self._is_held = True

    def _take(self, run_dir: Path, bpffs_root: Path, *, waits: bool) -> None:
        if not _acquire(self._fd, waits=waits):
            pid = os.pread(self._fd, 32, 0).decode().strip()
            raise AgentRunningError(f"an agent (pid {pid}) runs with the run-dir {run_dir}", _OWN)
        if not _acquire(self._root, waits=waits):
            raise AgentRunningError(f"an agent runs with the bpffs root {bpffs_root}", _OWN)
        try:
            os.pwrite(self._fd, f"{os.getpid():<31}\n".encode(), 0)
        except OSError as error:
            raise ConfigError(
                f"{run_dir / LOCK} cannot be written: {error.strerror}",
                "make room on its file system, or give another --run-dir",
            ) from error

    def release(self) -> None:
        """Let go of the lock; nothing happens the next time."""
        if self._is_held:
            self._is_held = False
            # whoever waits for both has them in this order
            os.close(self._fd)
            os.close(self._root)


def check_places(run_dir: Path, bpffs_root: Path) -> None:
    """Raise ConfigError where an agent with these could not hold its locks, whoever holds them."""
    os.close(_open_file(run_dir / LOCK))
    os.close(_open_directory(bpffs_root))


class Waiting(NamedTuple):
    """The agent that is to take over, by its own word; `lacks` is what it has yet to prepare."""

    pid: int
    version: str
    lacks: str


class Turn:
    """The place behind the running agent, of one process at a time; others queue up for it."""

    def __init__(self, run_dir: Path) -> None:
        self._fd = _open_file(run_dir / TURN)

    def wait(self) -> None:
        """Block until the place is ours."""
        _acquire(self._fd, waits=True)

    def note(self, who: Waiting) -> None:
        """Say who waits; where that cannot be written, `status` says nothing of it."""
        text = json.dumps(who._asdict())
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, f"{text:<{_TURN_BYTES - 1}}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the place."""
        os.close(self._fd)


def _open_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(error) from error


def _open_directory(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(error) from error


def _unusable(error: OSError) -> ConfigError:
    return ConfigError(
        f"{error.filename} cannot be used: {error.strerror}",
        "give --run-dir and --bpffs-root directories that root may write",
    )


def _acquire(fd: int, *, waits: bool) -> bool:
    """Lock a file; who only asks whether it is locked (below) holds it for a moment."""
    if waits:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + ASKING_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def holder(run_dir: Path) -> int | None:
    """Return the pid of the agent that runs with a run-dir, None if none does."""
    try:
        fd = os.open(run_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.pread(fd, 32, 0).decode().strip() or 0) if _is_locked(fd) else None
    finally:
        os.close(fd)


def waiting(run_dir: Path) -> Waiting | None:
    """Return the agent that waits to take over from the one that runs with a run-dir, if any."""
    try:
        fd = os.open(run_dir / TURN, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _is_locked(fd):
            return None
        return Waiting(**json.loads(os.pread(fd, _TURN_BYTES, 0)))
    except (ValueError, TypeError):
        # it has the place, and has said nothing yet
        return None
    finally:
        os.close(fd)


def root_is_in_use(bpffs_root: Path) -> bool:
    """Return whether an agent runs with a bpffs root, whatever its run-dir."""
    try:
        fd = os.open(bpffs_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_locked(fd)
    finally:
        os.close(fd)

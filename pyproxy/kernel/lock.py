# SPDX-License-Identifier: Apache-2.0
"""One agent a run-dir and a bpffs root: the locks that the running agent holds."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from pyproxy.errors import ConfigError, PyproxyError

LOCK = "agent.lock"
ASKING_S = 0.5

_OWN = "stop it, or give each agent its own --run-dir, --bpffs-root and --cgroup-root"


class AgentRunningError(PyproxyError):
    """Another agent holds the lock of this run-dir."""


class Lock:
    """Held by the agent for as long as it lives; the kernel lets go of it when it dies.

    Both its run-dir and its bpffs root are locked: two agents on one set of maps would hand
    out the same ids and slots, whatever run-dirs they have.
    """

    def __init__(self, run_dir: Path, bpffs_root: Path) -> None:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._root = _open_directory(bpffs_root)
        except OSError as error:
            raise ConfigError(
                f"{error.filename} cannot be used: {error.strerror}",
                "give --run-dir and --bpffs-root directories that root may write",
            ) from error
        if not _acquire(self._fd):
            pid = os.pread(self._fd, 32, 0).decode().strip()
            raise AgentRunningError(f"an agent (pid {pid}) runs with the run-dir {run_dir}", _OWN)
        if not _acquire(self._root):
            raise AgentRunningError(f"an agent runs with the bpffs root {bpffs_root}", _OWN)
        self._note_pid(run_dir)

    def _note_pid(self, run_dir: Path) -> None:
        try:
            os.pwrite(self._fd, f"{os.getpid():<31}\n".encode(), 0)
        except OSError as error:
            raise ConfigError(
                f"{run_dir / LOCK} cannot be written: {error.strerror}",
                "make room on its file system, or give another --run-dir",
            ) from error

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._fd)
        os.close(self._root)


def _open_directory(path: Path) -> int:
    path.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _acquire(fd: int) -> bool:
    """Lock a file; who only asks whether it is locked (below) holds it for a moment."""
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

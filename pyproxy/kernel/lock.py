# SPDX-License-Identifier: Apache-2.0
"""One agent a run-dir: the lock that the running agent holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pyproxy.errors import ConfigError, PyproxyError

LOCK = "agent.lock"


class AgentRunningError(PyproxyError):
    """Another agent holds the lock of this run-dir."""


class Lock:
    """Held by the agent for as long as it lives; the kernel lets go of it when it dies."""

    def __init__(self, run_dir: Path) -> None:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"--run-dir {run_dir} cannot be used: {error.strerror}",
                "give a directory that root may write",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._fd, 32, 0).decode().strip()
            os.close(self._fd)
            raise AgentRunningError(
                f"an agent (pid {pid}) runs with the run-dir {run_dir}",
                "stop it, or give each agent its own --run-dir, --bpffs-root and --cgroup-root",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._fd)


def holder(run_dir: Path) -> int | None:
    """Return the pid of the agent that runs with a run-dir, None if none does."""
    try:
        fd = os.open(run_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(fd, 32, 0).decode().strip() or 0)
    finally:
        os.close(fd)
    return None

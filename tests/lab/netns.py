# SPDX-License-Identifier: Apache-2.0
"""Network namespaces bound to files, made and entered without starting a process.

`unshare` and `setns` change the calling thread only, so each runs in a thread of its own that
ends at once. The files lie in the cluster's directory, not in /run/netns: `ip netns add` puts
a mount over that for good, which would hide ours. Enter by hand with `nsenter --net=FILE`.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2
MS_SHARED = 1 << 20

T = TypeVar("T")


def _call(name: str, *arguments: object) -> None:
    """Call a function of libc that returns 0 or sets errno; raise OSError on failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str | None, flags: int = 0) -> None:
    """Attach the file system `source` at `target`; raises OSError."""
    fs_type = kind.encode() if kind else None
    _call("mount", source.encode(), str(target).encode(), fs_type, flags, None)


def share(target: Path) -> None:
    """Let the mount at `target` be one of a peer group, as a node's are; raises OSError."""
    _call("mount", None, str(target).encode(), None, MS_SHARED, None)


def unmount(target: Path) -> None:
    """Take the mount at `target` away, now or when its last user ends; raises OSError."""
    _call("umount2", str(target).encode(), MNT_DETACH)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as failure:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def create(path: Path, sysctls: Mapping[str, str]) -> None:
    """Make a namespace with these sysctls (`net/...` paths) and bind it to the new file `path`.

    Sysctls are set before any device exists, so `default` values hold for all of them.
    """
    path.touch(exist_ok=False)

    def work() -> None:
        _call("unshare", CLONE_NEWNET)
        for key, value in sysctls.items():
            Path("/proc/sys", key).write_text(value)
        mount("/proc/thread-self/ns/net", path, None, MS_BIND)

    _in_thread(work)


def inside(path: Path, work: Callable[[], T]) -> T:
    """Run `work` in the namespace (sockets that it makes stay there) and return its result."""

    def body() -> T:
        with path.open("rb") as namespace:
            _call("setns", namespace.fileno(), CLONE_NEWNET)
        return work()

    return _in_thread(body)

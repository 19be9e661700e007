# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy sets on its host besides rules, and what others on the node rely on.

Our programs need none of it. But masquerading and policies of a CNI track connections in the
kernel's table, whose size and timeouts a node has had from kube-proxy (parity A17.1, A17.2).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyproxy.tables import Conntrack

ROOT = Path("/")
MOST_ENTRIES = 1 << 20  # of maxPerCore times CPUs
SYSCTLS = Path("proc/sys/net/netfilter")
SIZE = "nf_conntrack_max"
# the same as sys/module/nf_conntrack/parameters/hashsize, which kube-proxy writes
HASH_SIZE = SYSCTLS / "nf_conntrack_buckets"
OOM_SCORE = Path("proc/self/oom_score_adj")
MOUNTED = Path("/host")  # where a container may have a node's /proc/sys/net: its own is read-only
ENTRIES_A_BUCKET = 4  # as the kernel's own default was for long


def wanted_size(settings: Conntrack, cpus: int) -> int:
    """Return how many connections are to be tracked, 0 for as many as now."""
    if not settings.max_per_core:
        return 0
    scaled = settings.max_per_core * cpus
    return MOST_ENTRIES if scaled > MOST_ENTRIES else max(scaled, settings.min)


def tracks_connections(root: Path = ROOT) -> bool:
    """Return whether the kernel has its connection tracking: the module comes when it is needed."""
    return (root / SYSCTLS / SIZE).exists()


def set_conntrack(settings: Conntrack, root: Path = ROOT, cpus: int = 0) -> list[str]:
    """Set what differs; return a line for each thing that was set.

    Of those that cannot be set the others do not suffer: OSErrors are raised in one group. Where
    the kernel tracks nothing there is nothing to set.
    """
    if not tracks_connections(root):
        return []
    done: list[str] = []
    failures = []
    # the table is the whole machine's: who is in a network namespace of his own leaves it alone
    is_ours = (root / SYSCTLS / SIZE).stat().st_mode & stat.S_IWUSR
    size = wanted_size(settings, cpus or os.cpu_count() or 1) if is_ours else 0
    for path, value in _values(settings, size):
        try:
            done += _write(root / path, value)
        except OSError as error:
            failures.append(error)
    if size and not failures:
        try:
            done += _widen(root / HASH_SIZE, size // ENTRIES_A_BUCKET)
        except OSError as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("; ".join(map(_text, failures)), failures)
    return done


def set_oom_score(score: int, root: Path = ROOT) -> None:
    """Tell the kernel how readily it may kill this process for its memory; raises OSError."""
    _write(root / OOM_SCORE, score)


def _values(settings: Conntrack, size: int) -> Iterator[tuple[Path, int]]:
    wanted = {
        SIZE: size,
        "nf_conntrack_tcp_be_liberal": int(settings.tcp_be_liberal),
        "nf_conntrack_tcp_timeout_established": settings.tcp_established_timeout_s,
        "nf_conntrack_tcp_timeout_close_wait": settings.tcp_close_wait_timeout_s,
        "nf_conntrack_udp_timeout": settings.udp_timeout_s,
        "nf_conntrack_udp_timeout_stream": settings.udp_stream_timeout_s,
    }
    return ((SYSCTLS / name, value) for name, value in wanted.items() if value)


def writable(path: Path, mounted: Path = MOUNTED) -> Path:
    """Return by what path a file of /proc/sys can be written: of a container's own none can."""
    other = mounted / path.relative_to("/")
    return other if not os.access(path, os.W_OK) and os.access(other, os.W_OK) else path


def _write(path: Path, value: int) -> list[str]:
    before = int(path.read_text("ascii"))
    if before == value:
        return []
    writable(path).write_text(f"{value}\n", "ascii")
    return [f"{path.name}: {value} (was {before})"]


def _widen(path: Path, value: int) -> list[str]:
    return _write(path, value) if int(path.read_text("ascii")) < value else []


def _text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"

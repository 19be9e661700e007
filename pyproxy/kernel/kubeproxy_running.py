# SPDX-License-Identifier: Apache-2.0
"""Whether a kube-proxy serves this network namespace: it would write its rules again.

Its process may be in a PID namespace that we do not see; its ports are in ours, and nobody's but
kube-proxy's by default. They are our agent's as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pyproxy.kernel.addresses import PROC_NET

PROC = Path("/proc")
NAME = "kube-proxy"
PORTS = (10249, 10256)  # metrics and health (parity A12.1, A13.1)
_LISTEN = "0A"  # TCP_LISTEN of include/net/tcp_states.h


def running(agent: int | None) -> str:
    """Return who it is, "" if nobody is seen; ports that `agent` listens on, by its pid, are ours.

    None: there is no agent.
    """
    for pid in _pids():
        if _is_kube_proxy(pid):
            return f"{NAME} (pid {pid})"
    taken = _listening()
    if taken:
        ours = _sockets(agent) if agent is not None else set()
        if ours is None:  # an agent that is not seen has them, as far as anybody can tell
            return ""
        for port, inode in sorted(taken):
            if inode not in ours:
                return f"whoever listens on port {port}, {NAME}'s by default"
    return ""


def _pids() -> Iterator[int]:
    return (int(each.name) for each in PROC.iterdir() if each.name.isdecimal())


def _is_kube_proxy(pid: int) -> bool:
    """Return whether a process is one, in this network namespace; one that ends is none."""
    with suppress(OSError):
        at = PROC / str(pid)
        if (at / "comm").read_text("utf-8", "replace").strip() == NAME:
            return (at / "ns/net").readlink() == (PROC / "thread-self/ns/net").readlink()
    return False


def _listening() -> set[tuple[int, int]]:
    """Return which of the ports somebody listens on, with the sockets' inode numbers."""
    found = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC_NET / name).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                port = int(fields[1].rpartition(":")[2], 16)
                if fields[3] == _LISTEN and port in PORTS:
                    found.add((port, int(fields[9])))
    return found


def _sockets(pid: int) -> set[int] | None:
    """Return the inode numbers of a process's sockets, None if it is not seen."""
    found = set()
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for each in descriptors:
        with suppress(OSError):
            name = str(each.readlink())
            if name.startswith("socket:["):
                found.add(int(name[8:-1]))
    return found

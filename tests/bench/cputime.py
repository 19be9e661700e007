# SPDX-License-Identifier: Apache-2.0
"""CPU time of both ends of a conversation, with what the kernel does for it.

The cgroups' own accounts (usage_usec of cpu.stat) are of the scheduler's clock: exact to a
microsecond, where /proc/stat counts ticks of four milliseconds and a window has eight of them. Soft
interrupts that run in a process's context (a packet over veth is received inside the call that
sends it) are in it; what they leave to ksoftirqd is that thread's time, which is added. Kernel
workers, which clean up after connections, are nobody's here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")
THREAD = "ksoftirqd/"


class CpuTime:
    """The CPU time of some cgroups, and of the kernel's threads for soft interrupts."""

    def __init__(self, cgroups: Sequence[Path], proc: Path = PROC) -> None:
        self._accounts = [cgroup / "cpu.stat" for cgroup in dict.fromkeys(cgroups)]
        self._threads = _soft_interrupt_threads(proc)

    def ns(self) -> int:
        """Return nanoseconds since some time in the past."""
        used = sum(usage_us(account.read_text("ascii")) for account in self._accounts) * 1000
        # The first number is the time on a CPU in nanoseconds.
        return used + sum(int(each.read_text("ascii").split()[0]) for each in self._threads)


def usage_us(account: str) -> int:
    """Return the microseconds that a cgroup's cpu.stat says were used."""
    return int(dict(line.split() for line in account.splitlines())["usage_usec"])


def _soft_interrupt_threads(proc: Path) -> list[Path]:
    """Return the accounts of these threads, one a CPU; none where they are hidden (a container)."""
    found = []
    for entry in proc.glob("[0-9]*"):
        try:
            name = (entry / "comm").read_text("utf-8")
        except OSError:  # it has ended
            continue
        if name.startswith(THREAD):
            found.append(entry / "schedstat")
    return found

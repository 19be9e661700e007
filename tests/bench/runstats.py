# SPDX-License-Identifier: Apache-2.0
"""The kernel's run-time statistics of BPF programs: how often each ran, and for how long.

They are on while a descriptor for them is open (BPF_ENABLE_STATS), for all programs of the
machine; the sysctl kernel.bpf_stats_enabled would stay. Each run then takes two looks at a clock
longer, of which about one is counted: an empty program says how much.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab import foreign

STATS_RUN_TIME = 0  # enum bpf_stats_type of include/uapi/linux/bpf.h


class Runs(NamedTuple):
    """How often a program has run, and for how many nanoseconds in all."""

    times: int
    ns: int

    def mean_since(self, before: Runs) -> float:
        """Return the nanoseconds of a run since then; raises ZeroDivisionError without any."""
        return (self.ns - before.ns) / (self.times - before.times)


@contextmanager
def statistics() -> Iterator[None]:
    """Have the kernel count and time all runs for the length of a block; raises OSError."""
    fd = foreign.checked(ctypes.CDLL(foreign.LIBBPF).bpf_enable_stats(STATS_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


def runs_of(program: int) -> Runs:
    """Return what was counted of a program, by its descriptor."""
    text = Path(f"/proc/self/fdinfo/{program}").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^(\w+):\s*(\d+)$", text, re.MULTILINE))
    return Runs(int(fields["run_cnt"]), int(fields["run_time_ns"]))

# SPDX-License-Identifier: Apache-2.0
"""Waiting until no BPF program can still be using what was replaced.

Programs run inside an RCU read-side section, and membarrier(2) with MEMBARRIER_CMD_GLOBAL is
synchronize_rcu() for user space (Linux kernel/sched/membarrier.c): 8-16 ms.
"""

from __future__ import annotations

import ctypes
import os
import time
from functools import cache
from typing import Any

_NUMBER = {"x86_64": 324, "aarch64": 283}
MEMBARRIER_CMD_GLOBAL = 1

# where the call is refused (EINVAL on nohz_full kernels) no program runs this long
GRACE_S = 0.1


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def wait_for_readers() -> None:
    """Return when every BPF program that runs now has ended."""
    number = _NUMBER.get(os.uname().machine)
    if number is None or _libc().syscall(number, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0:
        time.sleep(GRACE_S)

# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do, asked by trying and never by its version."""

from __future__ import annotations

from typing import NamedTuple

from pyproxy.kernel import absent, libbpf
from pyproxy.kernel.programs import CGROUP_SOCK_ADDR

HELPER_SK_STORAGE_GET = 107  # include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER
HELPER_GET_NETNS_COOKIE = 122
HELPER_KTIME_GET_COARSE_NS = 160
HELPER_SET_RETVAL = 187
HELPER_SKC_TO_MPTCP_SOCK = 196

MAP_HASH = 1
MAP_ARRAY = 2
MAP_PROG_ARRAY = 3
MAP_PERCPU_ARRAY = 6
MAP_LRU_HASH = 9
MAP_LPM_TRIE = 11
MAP_SK_STORAGE = 24


class Features(NamedTuple):
    """What the programs are compiled and attached by."""

    set_retval: bool
    mptcp: bool
    tcx: bool


def probe() -> Features:
    """Ask the kernel for what changes how programs are compiled and attached."""
    return Features(
        set_retval=_socket_hooks_call(absent.SET_RETVAL, HELPER_SET_RETVAL),
        mptcp=_socket_hooks_call(absent.MPTCP, HELPER_SKC_TO_MPTCP_SOCK),
        tcx=libbpf.tcx_exists(),
    )


def _socket_hooks_call(name: str, helper: int) -> bool:
    return not absent.is_forced(name) and libbpf.helper_exists(CGROUP_SOCK_ADDR, helper)

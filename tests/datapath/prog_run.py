# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: a pinned program runs on a packet that never was on a wire.

For a tc program the kernel wants an Ethernet frame (net/bpf/test_run.c): it takes bytes 12 and
13 for the EtherType, and hands over the whole. A packet without link layer gets through as well
if its source address has the right EtherType there: packets.SOURCES does.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from pyproxy.kernel import links
from pyproxy.model import Family

# What the kernel takes (shorter ones are EINVAL): a frame, and, newer kernels, what its
# EtherType promises: a whole IP header.
ETHERNET_BYTES = 14
IP_BYTES = {Family.IPV4: 20, Family.IPV6: 40}

TC_NEXT = -1
TC_DROP = 2


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def run(program: Path, data: bytes) -> int:
    """Return the verdict of the tc program pinned at `program` on a packet; raises OSError.

    It must leave the packet as it is.
    """
    given = ctypes.create_string_buffer(data, len(data))
    left = ctypes.create_string_buffer(len(data) + 256)
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=ctypes.addressof(given),
        data_out=ctypes.addressof(left),
        data_size_in=len(data),
        data_size_out=len(left),
        repeat=1,
    )
    with links.opened(program) as fd:
        result = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts(fd, ctypes.byref(options))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    assert left.raw[: options.data_size_out] == data
    return ctypes.c_int32(options.retval).value

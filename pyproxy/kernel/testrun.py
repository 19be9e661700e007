# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: a tc program runs by itself, on a frame that never was on a wire."""

from __future__ import annotations

import ctypes
import errno

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf


class Options(ctypes.Structure):
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


def repeat(fd: int, frame: bytes, times: int) -> bytes:
    """Run a program, by its descriptor, so often on one frame; return what is left of that.

    Each run finds the frame as the one before has left it. A signal ends the runs: they begin
    again then, with the frame as it was at first.
    """
    given = ctypes.create_string_buffer(frame, len(frame))
    left = ctypes.create_string_buffer(len(frame))
    options = Options(
        sz=ctypes.sizeof(Options),
        data_in=ctypes.addressof(given),
        data_out=ctypes.addressof(left),
        data_size_in=len(frame),
        data_size_out=len(frame),
        repeat=times,
    )
    while True:
        try:
            libbpf.prog_test_run(fd, options)
        except KernelError as error:
            if error.errno != errno.EINTR:
                raise
        else:
            return left.raw

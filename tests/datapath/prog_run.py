# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: a pinned program runs on a packet that never was on a wire.

For a tc program the kernel wants an Ethernet frame (net/bpf/test_run.c): it takes bytes 12 and
13 for the EtherType and the first six for the destination's hardware address, by which the
frame is for this node or not, and hands over the whole. Devices are those of the network
namespace of the thread that asks: loopback, unless the context names another one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf
from pyproxy.kernel.testrun import Options

TC_NEXT = -1
TC_DROP = 2
TC_REDIRECT = 7

# The kernel sums the packet before the run and after it, and compares with what the program
# has made of skb->csum, as a device that sums for itself leaves it.
CHECKSUM_COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE of include/uapi/linux/bpf.h

GROWTH = 2048  # an answer may be longer than what it answers
SKB_BYTES = 192  # struct __sk_buff; the kernel takes shorter ones and fills up with zeros
MARK_AT, IFINDEX_AT, GSO_SIZE_AT = 8, 40, 176  # offsets of its fields


class Ran(NamedTuple):
    """A program's verdict, and the packet as it left it."""

    verdict: int
    data: bytes


def run(fd: int, data: bytes, *, ifindex: int = 0, flags: int = 0, gso_size: int = 0) -> Ran:
    """Run a tc program, by its descriptor, on a frame; raises KernelError.

    `ifindex` is the device's that the frame comes by or leaves by, 0 for loopback. `gso_size`: a
    device is to cut it into pieces with so many bytes of payload, 0 for none.
    """
    given = {at: value for at, value in ((IFINDEX_AT, ifindex), (GSO_SIZE_AT, gso_size)) if value}
    context = _context(given) if given else None
    return _run(fd, data, context, flags)


def mark_after(fd: int, data: bytes, mark: int) -> int:
    """Run a tc program as run() does; return the mark of a frame that had `mark` before."""
    context = _context({MARK_AT: mark})
    _run(fd, data, context)
    return int.from_bytes(context[MARK_AT : MARK_AT + 4], "little")


def _context(fields: Mapping[int, int]) -> bytearray:
    """Return a struct __sk_buff with some of its fields, by their offsets."""
    context = bytearray(SKB_BYTES)
    for at, value in fields.items():
        context[at : at + 4] = value.to_bytes(4, "little")
    return context


def _run(fd: int, data: bytes, context: bytearray | None, flags: int = 0) -> Ran:
    """Run a program; the context is as the program left it then."""
    given = ctypes.create_string_buffer(data, len(data))
    left = ctypes.create_string_buffer(len(data) + GROWTH)
    options = Options(
        sz=ctypes.sizeof(Options),
        data_in=ctypes.addressof(given),
        data_out=ctypes.addressof(left),
        data_size_in=len(data),
        data_size_out=len(left),
        repeat=1,
        flags=flags,
    )
    if context is not None:
        raw = (ctypes.c_uint8 * SKB_BYTES).from_buffer(context)
        options.ctx_in = options.ctx_out = ctypes.addressof(raw)
        options.ctx_size_in = options.ctx_size_out = SKB_BYTES
    libbpf.prog_test_run(fd, options)
    return Ran(ctypes.c_int32(options.retval).value, left.raw[: options.data_size_out])


class Tuples:
    """Runs of one program on one frame again and again, each time with other bytes in it.

    Nothing is made anew in between, so that a run costs about 2 us.
    """

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._frame = ctypes.create_string_buffer(data, len(data))
        self._left = ctypes.create_string_buffer(len(data) + GROWTH)
        self._call = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts
        self._options = Options(
            sz=ctypes.sizeof(Options),
            data_in=ctypes.addressof(self._frame),
            data_out=ctypes.addressof(self._left),
            data_size_in=len(data),
            repeat=1,
        )

    def run(self, changes: Sequence[tuple[int, bytes]]) -> int:
        """Return the verdict on the frame after some of its bytes were replaced by offset.

        The checksums stay as they are: no program looks at one.
        """
        for at, data in changes:
            ctypes.memmove(ctypes.addressof(self._frame) + at, data, len(data))
        self._options.data_size_out = len(self._left)
        if self._call(self._fd, ctypes.byref(self._options)):
            raise OSError("BPF_PROG_TEST_RUN failed")
        return ctypes.c_int32(self._options.retval).value

    @property
    def left(self) -> bytes:
        """What the last run left of the frame."""
        return self._left.raw[: self._options.data_size_out]


def knows_checksum_complete(fd: int, frame: bytes) -> bool:
    """Return whether this kernel can check skb->csum (Linux 6.13 can)."""
    try:
        run(fd, frame, flags=CHECKSUM_COMPLETE)
    except KernelError:
        return False
    return True


def program(path: str) -> int:
    """Return a descriptor of the program pinned at `path`."""
    try:
        return libbpf.obj_get(path)
    except KernelError as error:
        raise AssertionError(f"{path} is not loaded: {error}") from error

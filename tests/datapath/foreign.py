# SPDX-License-Identifier: Apache-2.0
"""Somebody else's tc program, which counts the packets that reach it."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.programs import SCHED_CLS

MAP_TYPE_ARRAY = 2  # enum bpf_map_type
LOOKUP = 1  # bpf_map_lookup_elem
KEY = bytes(4)


def _instruction(
    code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    """Return one struct bpf_insn (include/uapi/linux/bpf.h)."""
    return struct.pack("=BBhi", code, src << 4 | dst, offset, immediate)


TC_INDEX = 44  # offset in struct __sk_buff


def _counting(map_fd: int, verdict: int, *, indexed: bool) -> bytes:
    """Return a program that adds 1 to a map's only element and returns `verdict`.

    If `indexed` says so it adds nothing for packets without a tc_index.
    """
    only = (
        _instruction(0x61, dst=6, src=1, offset=TC_INDEX),  # r6 = *(u32 *)(r1 + TC_INDEX)
        _instruction(0x15, dst=6, offset=9),  # if it is 0 go to the verdict
    )
    return b"".join(
        (
            *(only if indexed else ()),
            _instruction(0x62, dst=10, offset=-4),  # *(u32 *)(fp - 4) = 0
            _instruction(0xBF, dst=2, src=10),  # r2 = fp
            _instruction(0x07, dst=2, immediate=-4),  # r2 += -4
            _instruction(0x18, dst=1, src=1, immediate=map_fd),  # r1 = map
            _instruction(0),
            _instruction(0x85, immediate=LOOKUP),
            _instruction(0x15, offset=2),  # without an element skip two
            _instruction(0xB7, dst=1, immediate=1),  # r1 = 1
            _instruction(0xDB, src=1),  # lock *(u64 *)r0 += r1
            _instruction(0xB7, immediate=verdict),  # r0 = verdict
            _instruction(0x95),  # exit
        )
    )


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class Counting:
    """A counting program pinned at `pin`; by default it says "next, please".

    `indexed`: it counts only packets with a tc_index.
    """

    def __init__(self, pin: Path, verdict: int = -1, *, indexed: bool = False) -> None:
        library = ctypes.CDLL("libbpf.so.1")
        self._map = _checked(library.bpf_map_create(MAP_TYPE_ARRAY, b"foreign", 4, 8, 1, None))
        code = _counting(self._map, verdict, indexed=indexed)
        number = ctypes.c_size_t(len(code) // 8)
        load = library.bpf_prog_load
        program = _checked(load(SCHED_CLS, b"foreign", b"GPL", code, number, None))
        try:
            libbpf.obj_pin(program, str(pin))
        finally:
            os.close(program)
        self.pin = pin

    @property
    def seen(self) -> int:
        """How many packets it saw."""
        return int.from_bytes(libbpf.map_lookup(self._map, KEY, 8) or b"", "little")

    def close(self) -> None:
        """Unpin the program; what is attached stays."""
        self.pin.unlink()
        os.close(self._map)

    def link(self, ifindex: int, attach_type: int, *, first: bool = False) -> int:
        """Attach it to a device's tcx, after all that is there or before; return the link."""
        with links.opened(self.pin) as program:
            return libbpf.link_create(program, ifindex, attach_type, first=first)

# SPDX-License-Identifier: Apache-2.0
"""Which BPF objects the kernel has, by id alone.

Nothing is opened: a program array that is opened and closed while it is being freed can stay for
good (prog_array_map_clear takes a reference for a work item that may be queued already).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from tests.lab.bpf_objects import KINDS, Objects

LIBBPF = "libbpf.so.1"


def _all(kind: str) -> Iterator[int]:
    """Give the ids of all programs ("prog"), maps or links of the machine (bpf(2))."""
    following = getattr(ctypes.CDLL(LIBBPF), f"bpf_{kind}_get_next_id")
    number = ctypes.c_uint32(0)
    while (failed := following(number, ctypes.byref(number))) == 0:
        yield number.value
    if failed != -errno.ENOENT:
        raise OSError(-failed, os.strerror(-failed))


def alive(objects: Objects) -> Objects:
    """Return those of the objects that the kernel has yet."""
    return Objects(*(ids & frozenset(_all(kind)) for ids, kind in zip(objects, KINDS, strict=True)))

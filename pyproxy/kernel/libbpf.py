# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) calls we need, through libbpf.so.1.

libbcc is linked against it, so it is there wherever bcc is, and unlike bcc it costs no
memory. Every function raises KernelError with the kernel's errno; file descriptors are
closed by their owner.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from pyproxy.errors import KernelError, MapFullError
from pyproxy.kernel import absent

BATCH = 8192

_c = ctypes


@cache
def _library() -> Any:
    try:
        library = _c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(
            "libbpf.so.1 is missing", "install the package libbpf1 (python3-bpfcc needs it too)"
        ) from error
    # a debug message of libbpf's on stderr is noise: every failure is raised
    library.libbpf_set_print(None)
    return library


def call(what: str, function: str, *arguments: Any) -> int:
    """Return what a function of libbpf's does; `what` it was for is in the error."""
    result = int(getattr(_library(), function)(*arguments))
    if result < 0:
        raise _error(what, function, -result if result != -1 else _c.get_errno() or 1)
    return result


def _error(what: str, function: str, number: int) -> KernelError:
    if number == errno.E2BIG and function.startswith("bpf_map_update"):
        return MapFullError(f"{what}: the map is full", errno=number)
    remedy = "run as root (CAP_BPF and CAP_NET_ADMIN)" if number == errno.EPERM else ""
    return KernelError(f"{what}: {os.strerror(number)}", remedy, errno=number)


class MapInfo(NamedTuple):
    """What the kernel says of a map; sizes in bytes."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    btf_key_type: int
    btf_value_type: int


class ProgramInfo(NamedTuple):
    """What the kernel says of a program; the tag is 16 hex digits."""

    type: int
    id: int
    tag: str
    name: str


class LinkInfo(NamedTuple):
    """What the kernel says of a link. `target` is a cgroup id or an ifindex, 0 once it is gone."""

    type: int
    id: int
    program_id: int
    target: int
    attach_type: int


class _MapInfo(_c.Structure):
    _fields_ = (
        *((name, _c.c_uint32) for name in ("type", "id", "key_size", "value_size")),
        ("max_entries", _c.c_uint32),
        ("flags", _c.c_uint32),
        ("name", _c.c_char * 16),
        ("ifindex", _c.c_uint32),
        ("vmlinux_value_type", _c.c_uint32),
        ("netns_dev", _c.c_uint64),
        ("netns_ino", _c.c_uint64),
        ("btf_id", _c.c_uint32),
        ("btf_key_type", _c.c_uint32),
        ("btf_value_type", _c.c_uint32),
        ("rest", _c.c_uint32 * 5),
    )


class _ProgramInfo(_c.Structure):
    _fields_ = (
        ("type", _c.c_uint32),
        ("id", _c.c_uint32),
        ("tag", _c.c_uint8 * 8),
        ("lengths", _c.c_uint32 * 2),
        ("instructions", _c.c_uint64 * 2),
        ("load_time", _c.c_uint64),
        ("uid", _c.c_uint32),
        ("map_count", _c.c_uint32),
        ("map_ids", _c.c_uint64),
        ("name", _c.c_char * 16),
        ("rest", _c.c_uint8 * 160),
    )


class _CgroupTarget(_c.Structure):
    _fields_ = (("id", _c.c_uint64), ("attach_type", _c.c_uint32))


class _DeviceTarget(_c.Structure):
    _fields_ = (("ifindex", _c.c_uint32), ("attach_type", _c.c_uint32))


class _Target(_c.Union):
    _fields_ = (("cgroup", _CgroupTarget), ("device", _DeviceTarget), ("rest", _c.c_uint64 * 16))


class _LinkInfo(_c.Structure):
    _fields_ = (
        ("type", _c.c_uint32),
        ("id", _c.c_uint32),
        ("program_id", _c.c_uint32),
        ("target", _Target),
    )


class _BtfInfo(_c.Structure):
    _fields_ = (
        ("data", _c.c_uint64),
        ("size", _c.c_uint32),
        ("id", _c.c_uint32),
        ("name", _c.c_uint64),
        ("name_length", _c.c_uint32),
        ("kernel", _c.c_uint32),
    )


class _LinkOptions(_c.Structure):
    """struct bpf_link_create_opts of libbpf 1."""

    _fields_ = (
        ("sz", _c.c_size_t),
        ("flags", _c.c_uint32),
        ("iter_info", _c.c_void_p),
        ("iter_info_len", _c.c_uint32),
        ("target_btf_id", _c.c_uint32),
        ("cookie", _c.c_uint64 * 8),
    )


BPF_F_BEFORE = 8  # include/uapi/linux/bpf.h
LINK_CGROUP = 3
LINK_TCX = 11


def _info(fd: int, record: Any) -> Any:
    size = _c.c_uint32(_c.sizeof(record))
    call("BPF_OBJ_GET_INFO_BY_FD", "bpf_obj_get_info_by_fd", fd, _c.byref(record), _c.byref(size))
    return record


def obj_get(path: str) -> int:
    """Return a descriptor of the object pinned at `path`."""
    return call(f"open the pin {path}", "bpf_obj_get", os.fsencode(path))


def obj_pin(fd: int, path: str) -> None:
    """Pin an object; the directory must exist on a bpffs and the name must be free."""
    call(f"pin {path}", "bpf_obj_pin", fd, os.fsencode(path))


def map_info(fd: int) -> MapInfo:
    """Return what the kernel says of a map."""
    raw = _info(fd, _MapInfo())
    return MapInfo(*(getattr(raw, field) for field in MapInfo._fields))


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel says of a program."""
    raw = _info(fd, _ProgramInfo())
    return ProgramInfo(raw.type, raw.id, bytes(raw.tag).hex(), raw.name.decode())


def link_info(fd: int) -> LinkInfo:
    """Return what the kernel says of a cgroup or tcx link."""
    raw = _info(fd, _LinkInfo())
    target = raw.target.cgroup if raw.type == LINK_CGROUP else raw.target.device
    where = target.id if raw.type == LINK_CGROUP else target.ifindex
    return LinkInfo(raw.type, raw.id, raw.program_id, where, target.attach_type)


def btf(btf_id: int) -> bytes:
    """Return the raw BTF object with this id."""
    fd = call("BPF_BTF_GET_FD_BY_ID", "bpf_btf_get_fd_by_id", btf_id)
    try:
        size = _info(fd, _BtfInfo()).size
        buffer = _c.create_string_buffer(size)
        _info(fd, _BtfInfo(data=_c.addressof(buffer), size=size))
        return buffer.raw
    finally:
        os.close(fd)


def program_fd(program_id: int) -> int:
    """Return a descriptor of the program with this id."""
    return call("BPF_PROG_GET_FD_BY_ID", "bpf_prog_get_fd_by_id", program_id)


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Write one element."""
    call("BPF_MAP_UPDATE_ELEM", "bpf_map_update_elem", fd, key, value, _c.c_uint64(0))


def map_delete(fd: int, key: bytes) -> bool:
    """Delete one element; return whether it was there."""
    try:
        call("BPF_MAP_DELETE_ELEM", "bpf_map_delete_elem", fd, key)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return an element's value, None if there is none."""
    value = _c.create_string_buffer(value_size)
    try:
        call("BPF_MAP_LOOKUP_ELEM", "bpf_map_lookup_elem", fd, key, value)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def percpu_sum(fd: int, index: int, cpus: int) -> int:
    """Return an element of a per-CPU array of 64-bit integers, summed over `cpus` CPUs."""
    raw = map_lookup(fd, index.to_bytes(4, sys.byteorder), 8 * cpus)
    return sum(memoryview(raw).cast("Q")) if raw else 0


def map_update_batch(fd: int, keys: bytes, values: bytes, number: int) -> None:
    """Write many elements, packed one after the other, in one call."""
    done = _c.c_uint32(number)
    call("BPF_MAP_UPDATE_BATCH", "bpf_map_update_batch", fd, keys, values, _c.byref(done), None)


def map_dump(fd: int, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    """Return all elements of a hash map. Elements that change meanwhile may be missed."""
    found: list[tuple[bytes, bytes]] = []
    for raw_keys, raw_values, count in _chunks(fd, key_size, value_size):
        found += [
            (
                raw_keys[i * key_size : (i + 1) * key_size],
                raw_values[i * value_size : (i + 1) * value_size],
            )
            for i in range(count)
        ]
    return found


def map_count(fd: int, key_size: int, value_size: int) -> int:
    """Return how many elements a hash map has."""
    return sum(count for _, _, count in _chunks(fd, key_size, value_size))


def _chunks(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes, int]]:
    keys = _c.create_string_buffer(key_size * BATCH)
    values = _c.create_string_buffer(value_size * BATCH)
    position = _c.create_string_buffer(max(key_size, 8))
    start: Any = None
    while True:
        number = _c.c_uint32(BATCH)
        more = _lookup_batch(fd, start, (position, keys, values), number)
        count = number.value
        yield keys.raw[: count * key_size], values.raw[: count * value_size], count
        if not more:
            return
        start = position


def _lookup_batch(fd: int, start: Any, buffers: tuple[Any, Any, Any], number: Any) -> bool:
    try:
        call(
            "BPF_MAP_LOOKUP_BATCH",
            "bpf_map_lookup_batch",
            fd,
            start,
            *buffers,
            _c.byref(number),
            None,
        )
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def link_create(program: int, target: int, attach_type: int, *, first: bool = False) -> int:
    """Attach a program to a cgroup (its descriptor) or a device (its ifindex); return the link.

    With `first` it runs before all others on the device: tcx only (BPF_F_BEFORE).
    """
    options = _LinkOptions(sz=_c.sizeof(_LinkOptions), flags=BPF_F_BEFORE if first else 0)
    return call(
        "BPF_LINK_CREATE", "bpf_link_create", program, target, attach_type, _c.byref(options)
    )


def link_update(link: int, program: int) -> None:
    """Replace the program of a link in one step, under traffic."""
    call("BPF_LINK_UPDATE", "bpf_link_update", link, program, None)


def prog_test_run(program: int, options: ctypes.Structure) -> None:
    """Run a program as a struct bpf_test_run_opts says, which is filled in."""
    call("BPF_PROG_TEST_RUN", "bpf_prog_test_run_opts", program, _c.byref(options))


def helper_exists(program_type: int, helper: int) -> bool:
    """Return whether programs of a type may call a helper (by number), by loading one that does."""
    return call("probe", "libbpf_probe_bpf_helper", program_type, helper, None) == 1


def program_type_exists(program_type: int) -> bool:
    """Return whether programs of a type (by number) can be loaded, by loading one."""
    return call("probe", "libbpf_probe_bpf_prog_type", program_type, None) == 1


def map_type_exists(map_type: int) -> bool:
    """Return whether maps of a type (by number) can be created, by creating one."""
    return call("probe", "libbpf_probe_bpf_map_type", map_type, None) == 1


def tcx_exists() -> bool:
    """Return whether devices take tcx programs (Linux 6.6): asked of the loopback device."""
    if absent.is_forced(absent.TCX):
        return False
    flags, number, ids = _c.c_uint32(), _c.c_uint32(16), (_c.c_uint32 * 16)()
    given = (1, 46, 0, _c.byref(flags), ids, _c.byref(number))
    try:
        call("BPF_PROG_QUERY", "bpf_prog_query", *given)
    except KernelError as error:
        return error.errno == errno.ENOSPC
    return True


def cgroup_programs(cgroup: int, attach_type: int) -> list[int]:
    """Return the ids of the programs attached to a cgroup itself, in the order they run."""
    return _attached(cgroup, attach_type)


def device_programs(ifindex: int, attach_type: int) -> list[int]:
    """Return the ids of the tcx programs on one side of a device, in the order they run."""
    return _attached(ifindex, attach_type)


def _attached(target: int, attach_type: int) -> list[int]:
    flags, number, ids = _c.c_uint32(), _c.c_uint32(64), (_c.c_uint32 * 64)()
    call(
        "BPF_PROG_QUERY",
        "bpf_prog_query",
        target,
        attach_type,
        0,
        _c.byref(flags),
        ids,
        _c.byref(number),
    )
    return list(ids[: number.value])

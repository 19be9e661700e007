# SPDX-License-Identifier: Apache-2.0
"""Somebody else's BPF programs, which pyproxy must leave alone; made through libbpf."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tests.lab.hosts import Node

SCHED_CLS = 3  # enum bpf_prog_type
CGROUP_SOCK_ADDR = 18
CGROUP_INET4_CONNECT = 10  # enum bpf_attach_type
TCX_NEXT = -1  # enum tcx_action_base; TC_ACT_UNSPEC
ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI
INSTRUCTION_BYTES = 8
LIBBPF = "libbpf.so.1"


class _LoadOptions(ctypes.Structure):
    """The head of libbpf's struct bpf_prog_load_opts; it reads as far as `sz` says."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
    )


def loaded(kind: int, attach_type: int, instructions: bytes) -> int:
    """Load a program of these instructions; return its descriptor, the caller's to close."""
    options = _LoadOptions(ctypes.sizeof(_LoadOptions), 0, attach_type)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    count = ctypes.c_size_t(len(instructions) // INSTRUCTION_BYTES)
    load = ctypes.CDLL(LIBBPF).bpf_prog_load
    return checked(load(kind, b"foreign", b"GPL", code, count, ctypes.byref(options)))


def made_map(kind: int, key_size: int, value_size: int, entries: int) -> int:
    """Make a map; return its descriptor, the caller's to close."""
    make = ctypes.CDLL(LIBBPF).bpf_map_create
    return checked(make(kind, b"foreign", key_size, value_size, entries, None))


def _returning(kind: int, attach_type: int, verdict: int) -> int:
    """Load `return verdict` and return its descriptor, which is the caller's to close."""
    move = bytes([0xB7, 0, 0, 0]) + verdict.to_bytes(4, "little", signed=True)
    leave = bytes([0x95]) + bytes(7)
    return loaded(kind, attach_type, move + leave)


def passing_on() -> int:
    """Load a tc program that says "next, please"; return its descriptor, the caller's to close."""
    return _returning(SCHED_CLS, 0, TCX_NEXT)


def checked(result: int) -> int:
    """Return what libbpf did, if it is no error; raises OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _pin(descriptor: int, path: Path) -> None:
    checked(ctypes.CDLL(LIBBPF).bpf_obj_pin(descriptor, str(path).encode()))


def attach_to_cgroup(node: Node) -> None:
    """Leave a program that lets everything pass on connect4 of the node's cgroup root."""
    program = _returning(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, 1)
    group = os.open(node.root, os.O_RDONLY)
    try:
        attach = ctypes.CDLL(LIBBPF).bpf_prog_attach
        checked(attach(program, group, CGROUP_INET4_CONNECT, ALLOW_MULTI))
    finally:
        os.close(group)
        os.close(program)


def attach_to_device(node: Node, device: str, pin: Path) -> None:
    """Leave a clsact with a filter that says "next, please" at ingress of a device.

    `pin` is a path on a bpffs where the program stays pinned (tc finds it there).
    """
    program = passing_on()
    try:
        _pin(program, pin)
    finally:
        os.close(program)
    node.run("tc", "qdisc", "add", "dev", device, "clsact", check=True)
    where = ("tc", "filter", "add", "dev", device, "ingress", "pref", "7")
    node.run(*where, "bpf", "da", "object-pinned", pin, check=True)

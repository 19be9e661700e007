# SPDX-License-Identifier: Apache-2.0
"""What pyproxy stands on, tried on the kernel itself: here, and on Debian 12's own kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

OLDEST = (6, 1)
# From the kernel's include/uapi/linux/bpf.h.
BPF_MAP_TYPE_ARRAY = 2
BPF_PROG_TYPE_CGROUP_SOCK_ADDR = 18
BPF_CGROUP_INET4_CONNECT = 10
BPF_F_ALLOW_MULTI = 2
BPF_FUNC_SET_RETVAL = 187
BPF_ALU64_MOV_K, BPF_JMP_CALL, BPF_JMP_EXIT = 0xB7, 0x85, 0x95

# argv: the cgroup to join and the port to connect to; prints connect()'s errno.
CONNECT = """
import socket, sys
open(f"{sys.argv[1]}/cgroup.procs", "w").write("0")
with socket.socket() as client:
    print(client.connect_ex(("127.0.0.1", int(sys.argv[2]))))
"""


class ProgLoadOpts(ctypes.Structure):
    """The first fields of libbpf's struct bpf_prog_load_opts; sz says where ours ends."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
    )


def instruction(code: int, register: int = 0, immediate: int = 0) -> bytes:
    """Return one struct bpf_insn, with `register` as its destination."""
    return struct.pack("=BBhi", code, register, 0, immediate)


ALLOW = instruction(BPF_ALU64_MOV_K, 0, 1) + instruction(BPF_JMP_EXIT)
REFUSE = (
    instruction(BPF_ALU64_MOV_K, 1, -errno.ECONNREFUSED)
    + instruction(BPF_JMP_CALL, 0, BPF_FUNC_SET_RETVAL)
    + instruction(BPF_ALU64_MOV_K, 0, 0)
    + instruction(BPF_JMP_EXIT)
)


@pytest.fixture(scope="module")
def libbpf() -> ctypes.CDLL:
    """libbpf, which libbcc brings."""
    return ctypes.CDLL("libbpf.so.1", use_errno=True)


@contextmanager
def mounted(kind: str, where: Path) -> Iterator[Path]:
    """Mount a file system of this kind for the duration."""
    where.mkdir()
    subprocess.run(["mount", "-t", kind, kind, str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)
        where.rmdir()


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """An empty cgroup of the cgroup2 hierarchy."""
    with mounted("cgroup2", tmp_path / "cgroup2") as root:
        made = root / f"pyproxy-guest-{os.getpid()}"
        made.mkdir()
        try:
            yield made
        finally:
            made.rmdir()


def load_connect4(libbpf: ctypes.CDLL, code: bytes) -> int:
    """Return the descriptor of a connect4 program of these instructions."""
    options = ProgLoadOpts(ctypes.sizeof(ProgLoadOpts), 1, BPF_CGROUP_INET4_CONNECT)
    descriptor = libbpf.bpf_prog_load(
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        b"guest",
        b"GPL",
        code,
        ctypes.c_size_t(len(code) // 8),
        ctypes.byref(options),
    )
    assert descriptor > 0, os.strerror(-descriptor)
    return int(descriptor)


def connect_errno(cgroup: Path, port: int) -> int:
    """Return the errno of connect() to a port of 127.0.0.1, by a process in the cgroup."""
    command = [sys.executable, "-S", "-c", CONNECT, str(cgroup), str(port)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_expected_kernel_runs() -> None:
    """In the virtual machine its own kernel runs; elsewhere one that pyproxy supports."""
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    series = os.environ.get("PYPROXY_GUEST")
    if series:
        assert release == tuple(int(part) for part in series.split("."))
    assert release >= OLDEST


def test_bpffs_can_be_mounted(tmp_path: Path) -> None:
    """Pins need a bpf file system: folders (a version each) can be made in it."""
    with mounted("bpf", tmp_path / "bpffs") as root:
        (root / "v1").mkdir()
        assert (root / "v1").is_dir()


def test_a_map_holds_what_is_written(libbpf: ctypes.CDLL) -> None:
    """The bpf system call works through libbpf.so.1, the way the agent uses it."""
    descriptor = libbpf.bpf_map_create(BPF_MAP_TYPE_ARRAY, b"guest", 4, 8, 2, None)
    assert descriptor > 0, os.strerror(-descriptor)
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        key, value, read = ctypes.c_uint32(1), ctypes.c_uint64(0x1234), ctypes.c_uint64()
        pointers = ctypes.byref(key), ctypes.byref(value)
        assert libbpf.bpf_map_update_elem(descriptor, *pointers, ctypes.c_uint64(0)) == 0
        assert libbpf.bpf_map_lookup_elem(descriptor, pointers[0], ctypes.byref(read)) == 0
        assert read.value == 0x1234


def test_a_cgroup_program_beside_another_refuses(libbpf: ctypes.CDLL, cgroup: Path) -> None:
    """Two connect4 programs share a cgroup; bpf_set_retval's ECONNREFUSED reaches connect()."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        where = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, where)
        for code, expected in ((ALLOW, 0), (REFUSE, errno.ECONNREFUSED)):
            program = load_connect4(libbpf, code)
            stack.callback(os.close, program)
            attached = (program, where, BPF_CGROUP_INET4_CONNECT)
            assert libbpf.bpf_prog_attach(*attached, BPF_F_ALLOW_MULTI) == 0
            stack.callback(libbpf.bpf_prog_detach2, *attached)
            assert connect_errno(cgroup, port) == expected

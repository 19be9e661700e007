# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) calls that make maps, programs and their types, through libbpf.so.1.

Whoever calls closes what is returned. All raise KernelError with the kernel's errno.
"""

from __future__ import annotations

import ctypes as _c

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf
from pyproxy.kernel.bytecode import INSTRUCTION, MapShape
from pyproxy.kernel.programs import Program

LICENSE = b"Dual BSD/GPL"  # as the SPDX lines in bpf/; some helpers want the GPL
LOG_BYTES = 1 << 24  # the verifier ends its words here (BPF_VERIFIER_TMP_LOG_SIZE is larger yet)
LOG_LINES = 30  # the last ones say what is wrong


class _MapOptions(_c.Structure):
    """struct bpf_map_create_opts of libbpf 1."""

    _fields_ = (
        ("sz", _c.c_size_t),
        ("btf_fd", _c.c_uint32),
        ("btf_key_type", _c.c_uint32),
        ("btf_value_type", _c.c_uint32),
        ("btf_vmlinux_value_type", _c.c_uint32),
        ("inner_map_fd", _c.c_uint32),
        ("map_flags", _c.c_uint32),
        ("map_extra", _c.c_uint64),
        ("numa_node", _c.c_uint32),
        ("map_ifindex", _c.c_uint32),
    )


class _ProgramOptions(_c.Structure):
    """struct bpf_prog_load_opts of libbpf 1."""

    _fields_ = (
        ("sz", _c.c_size_t),
        ("attempts", _c.c_int),
        ("expected_attach_type", _c.c_uint32),
        ("rest", _c.c_uint32 * 7),
        ("fd_array", _c.c_void_p),
        ("func_info", _c.c_void_p),
        ("func_info_size", _c.c_uint32 * 2),
        ("line_info", _c.c_void_p),
        ("line_info_size", _c.c_uint32 * 2),
        ("log_level", _c.c_uint32),
        ("log_size", _c.c_uint32),
        ("log_buf", _c.c_void_p),
    )


def btf_load(raw: bytes) -> int:
    """Give the kernel a BTF object; return its descriptor."""
    return libbpf.call("BPF_BTF_LOAD", "bpf_btf_load", raw, _c.c_size_t(len(raw)), None)


def map_create(name: str, shape: MapShape, btf: int) -> int:
    """Make a map, described by the types of a BTF object (a descriptor)."""
    options = _MapOptions(sz=_c.sizeof(_MapOptions), map_flags=shape.flags)
    if shape.btf_key_type:
        options.btf_fd = btf
        options.btf_key_type, options.btf_value_type = shape.btf_key_type, shape.btf_value_type
    return libbpf.call(
        f"make the map {name}",
        "bpf_map_create",
        *(shape.type, name.encode(), shape.key_size, shape.value_size, shape.max_entries),
        _c.byref(options),
    )


def prog_load(program: Program, instructions: bytes) -> int:
    """Load a program; the verifier's last words are in the error if it refuses."""
    options = _ProgramOptions(
        sz=_c.sizeof(_ProgramOptions), expected_attach_type=program.attach_type
    )
    try:
        return _prog_load(program, instructions, options)
    except KernelError:
        # asked for only now: writing it takes longer than the check
        log = _c.create_string_buffer(LOG_BYTES)
        options.log_level, options.log_size = 1, LOG_BYTES
        options.log_buf = _c.addressof(log)
        try:
            return _prog_load(program, instructions, options)
        except KernelError as error:
            words = log.value.decode(errors="replace").splitlines()[-LOG_LINES:]
            raise KernelError(
                "\n".join([*words, f"the kernel does not load {program.name}: {error}"]),
                "'pyproxy check' says what this kernel lacks",
                errno=error.errno,
            ) from error


def _prog_load(program: Program, instructions: bytes, options: _ProgramOptions) -> int:
    return libbpf.call(
        "BPF_PROG_LOAD",
        "bpf_prog_load",
        *(program.type, program.name.encode(), LICENSE, instructions),
        _c.c_size_t(len(instructions) // INSTRUCTION.size),
        _c.byref(options),
    )

# SPDX-License-Identifier: Apache-2.0
"""bcc, and nothing else: the one file that imports it, run only in the short-lived loader.

bcc keeps 120-190 MB of LLVM in its process for good and has no types. It compiles and no more:
the maps that it makes beside are gone with the process, and others than it load the programs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyproxy.errors import KernelError
from pyproxy.kernel import absent, libbpf
from pyproxy.kernel.bytecode import Bytecode, Code, MapShape


def compile_object(text: str, cflags: tuple[str, ...], headers: Path) -> Bytecode:
    """Compile C for bcc, which finds the kernel's headers in `headers`.

    Raises KernelError with what the compiler says.
    """
    # stub headers of ours, so that bcc never looks for the kernel's (bpf/include)
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    bcc = _bcc()
    try:
        module: Any = bcc.BPF(text=text, cflags=list(cflags)).module
    except Exception as error:  # bcc raises bare Exceptions
        raise KernelError(
            f"the programs do not compile: {error}",
            "'pyproxy check' says what this node lacks",
        ) from error
    return _read(bcc.lib, module)


def _bcc() -> Any:
    missing = KernelError("bcc's Python module is missing", "install the package python3-bpfcc")
    if absent.is_forced(absent.BCC):
        raise missing
    try:
        import bcc  # noqa: PLC0415 - LLVM is mapped by the import
    except ImportError as error:
        raise missing from error
    return bcc


def _read(library: Any, module: Any) -> Bytecode:
    tables = dict(_tables(library, module))
    infos = {name: libbpf.map_info(fd) for name, fd in tables.items()}
    names = {fd: name for name, fd in tables.items()}
    functions = [
        library.bpf_function_name(module, place)
        for place in range(library.bpf_num_functions(module))
    ]
    return Bytecode(
        {name.decode(): Code.read(_code(library, module, name), names) for name in functions},
        {name: MapShape.of(info) for name, info in infos.items()},
        # one describes all
        libbpf.btf(max(info.btf_id for info in infos.values())),
    )


def _tables(library: Any, module: Any) -> Iterator[tuple[str, int]]:
    """Yield name and descriptor of each map, by functions that bcc's Python does not declare."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for function, restype, argtypes in (
        (library.bpf_num_tables, size, [pointer]),
        (library.bpf_table_name, ctypes.c_char_p, [pointer, size]),
        (library.bpf_table_fd_id, ctypes.c_int, [pointer, size]),
    ):
        function.restype, function.argtypes = restype, argtypes
    for place in range(library.bpf_num_tables(module)):
        name = library.bpf_table_name(module, place).decode()
        yield name, library.bpf_table_fd_id(module, place)


def _code(library: Any, module: Any, function: bytes) -> bytes:
    size = library.bpf_function_size(module, function)
    return ctypes.string_at(library.bpf_function_start(module, function), size)

# SPDX-License-Identifier: Apache-2.0
"""Bytecode in the kernel: its maps are those that are pinned, new ones where there are none."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pyproxy.errors import KernelError
from pyproxy.kernel import create, libbpf
from pyproxy.kernel.bytecode import Bytecode, MapShape
from pyproxy.kernel.programs import Program

ANY_ENTRIES = 1  # what bpf/adopt.c says of tables that have any number


class Object:
    """A compiled object whose programs can be loaded; closing it lets go of what is not pinned.

    `pins` says which of its maps are pinned, and where: what is there is taken, what is not is
    pinned there. Raises KernelError if a pin is of another layout.
    """

    def __init__(self, code: Bytecode, pins: Mapping[str, Path]) -> None:
        self._code = code
        self._maps: dict[str, int] = {}
        self._btf = create.btf_load(code.btf)
        try:
            for name, shape in code.maps.items():
                pin = pins.get(name)
                self._maps[name] = self._pinned(name, shape, pin) if pin else self._new(name, shape)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        for fd in (self._btf, *self._maps.values()):
            os.close(fd)

    def pin_program(self, program: Program, pin: Path) -> None:
        """Load a program and pin it."""
        fd = create.prog_load(program, self._code.programs[program.name].linked(self._maps))
        try:
            libbpf.obj_pin(fd, str(pin))
        finally:
            os.close(fd)

    def pin_map(self, name: str, pin: Path) -> None:
        """Pin a map that was not."""
        libbpf.obj_pin(self._maps[name], str(pin))

    def _new(self, name: str, shape: MapShape) -> int:
        return create.map_create(name, shape, self._btf)

    def _pinned(self, name: str, shape: MapShape, pin: Path) -> int:
        if not pin.exists():
            fd = self._new(name, shape)
            try:
                libbpf.obj_pin(fd, str(pin))
            except KernelError as error:
                os.close(fd)
                # the other family's loader was here first
                if error.errno != errno.EEXIST:
                    raise
            else:
                return fd
        return _opened(pin, shape)


def _opened(pin: Path, wanted: MapShape) -> int:
    fd = libbpf.obj_get(str(pin))
    found = MapShape.of(libbpf.map_info(fd))
    same = found[:3] == wanted[:3]
    if same and wanted.max_entries in (found.max_entries, ANY_ENTRIES):
        return fd
    os.close(fd)
    raise KernelError(
        f"{pin} has another layout (type {found.type}, key {found.key_size}, "
        f"value {found.value_size} bytes, {found.max_entries} entries; wanted {wanted.type}, "
        f"{wanted.key_size}, {wanted.value_size}, {wanted.max_entries})",
        "stop the agent and run 'pyproxy cleanup' to begin anew",
    )

# SPDX-License-Identifier: Apache-2.0
"""Between records of ours and the bytes in a map, by a layout that BTF describes.

Nobody writes an offset: a codec is made from the names of the fields it carries.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

from pyproxy.errors import KernelError
from pyproxy.kernel.btf import Field

_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def addr_fold(address: bytes) -> int:
    """Return the words of an address in network order XORed, as bpf/addr.h does."""
    folded = 0
    for start in range(0, len(address), 4):
        folded ^= int.from_bytes(address[start : start + 4], sys.byteorder)
    return folded


class Codec:
    """Packs and unpacks the named fields of one struct; all other bytes are written as 0."""

    def __init__(self, layout: dict[str, Field], size: int, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in layout]
        if missing:
            raise KernelError(
                f"the pinned maps have no field {', '.join(missing)}",
                "they belong to another version: run 'pyproxy cleanup'",
            )
        # struct packs in the order of offsets, records come in the order of names
        order = sorted(range(len(names)), key=lambda i: layout[names[i]].offset)
        self._struct = struct.Struct(_format([layout[names[i]] for i in order], size))
        self._order = tuple(order)
        self._back = tuple(order.index(i) for i in range(len(names)))
        self._in_order = self._order == tuple(range(len(names)))
        self.size = size

    def pack(self, *values: Any) -> bytes:
        """Return the bytes of a record given in the order of the codec's names."""
        if not self._in_order:
            values = tuple(values[i] for i in self._order)
        return self._struct.pack(*values)

    def unpack(self, raw: bytes | memoryview, offset: int = 0) -> tuple[Any, ...]:
        """Return the named fields; runs of bytes as bytes."""
        values = self._struct.unpack_from(raw, offset)
        return values if self._in_order else tuple(values[i] for i in self._back)


def _format(fields: Sequence[Field], size: int) -> str:
    parts, position = ["="], 0
    for field in fields:
        if field.offset > position:
            parts.append(f"{field.offset - position}x")
        parts.append(_INTEGERS[field.size] if field.is_integer else f"{field.size}s")
        position = field.offset + field.size
    if size > position:
        parts.append(f"{size - position}x")
    return "".join(parts)


def text(raw: bytes) -> str:
    """Return the text of a zero-terminated field."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")

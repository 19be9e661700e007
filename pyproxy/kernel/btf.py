# SPDX-License-Identifier: Apache-2.0
"""Read struct layouts from BTF, the kernel's own description of a map's key and value.

The format is Documentation/bpf/btf.rst of the kernel. Only what our structs use is
understood: integers, arrays, structs, unions and the names in front of them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = 9, 10, 11, 12, 13, 14, 15
FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 16, 17, 18, 19
_ALIASES = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})

# bytes that follow a type: fixed, and for each of its vlen members
_TAIL = {
    INT: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8),
    FUNC_PROTO: (0, 8), VAR: (4, 0), DATASEC: (0, 12), DECL_TAG: (4, 0), ENUM64: (0, 12),
}  # fmt: skip


class Field(NamedTuple):
    """Where an integer or a run of bytes stands in a struct: offset and size in bytes."""

    offset: int
    size: int
    is_integer: bool


class _Type(NamedTuple):
    kind: int
    vlen: int
    size: int  # or the type it refers to
    tail: bytes


class Types:
    """The types of one BTF object."""

    def __init__(self, raw: bytes) -> None:
        _, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("=HBBIIIII", raw)
        self._strings = raw[header + str_off : header + str_off + str_len]
        self._types = [_Type(0, 0, 0, b"")]  # type ids start at 1
        self._read(raw[header + type_off : header + type_off + type_len])

    def _read(self, raw: bytes) -> None:
        position = 0
        while position < len(raw):
            _, info, size = struct.unpack_from("=III", raw, position)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _TAIL.get(kind, (0, 0))
            position += 12
            end = position + fixed + each * vlen
            self._types.append(_Type(kind, vlen, size, raw[position:end]))
            position = end

    def _resolve(self, number: int) -> _Type:
        found = self._types[number]
        while found.kind in _ALIASES:
            found = self._types[found.size]
        return found

    def _text(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def size(self, number: int) -> int:
        """Return the size of a type in bytes."""
        found = self._resolve(number)
        if found.kind != ARRAY:
            return found.size
        element, _, count = struct.unpack("=III", found.tail)
        return self.size(int(element)) * int(count)

    def fields(self, number: int) -> dict[str, Field]:
        """Return all integers and byte runs of a type by dotted path.

        A nested struct's members are named `outer.inner`; members of an anonymous one stand
        under their own names. An array, or a struct that holds nothing but one array, is a
        run of bytes. A plain integer type has the path "".
        """
        found: dict[str, Field] = {}
        self._collect(number, "", 0, found)
        return found

    def _collect(self, number: int, path: str, offset: int, found: dict[str, Field]) -> None:
        kind = self._resolve(number).kind
        if kind not in (STRUCT, UNION) or self._is_array(number):
            found[path] = Field(offset, self.size(number), kind in (INT, ENUM))
            return
        for name, member, at in self._members(number):
            inner = f"{path}.{name}" if path and name else path or name
            self._collect(member, inner, offset + at, found)

    def _is_array(self, number: int) -> bool:
        members = self._members(number)
        return len(members) == 1 and self._resolve(members[0][1]).kind == ARRAY

    def _members(self, number: int) -> list[tuple[str, int, int]]:
        found = self._resolve(number)
        if found.kind not in (STRUCT, UNION):
            return []
        return [
            (self._text(name), member, bits // 8)
            for name, member, bits in struct.iter_unpack("=III", found.tail)
        ]

# SPDX-License-Identifier: Apache-2.0
"""What compiling makes, as data: programs, the maps they use, and the types of those.

It depends on the C text and its settings alone, so that it can be kept and loaded again without
a compiler: on the next start of the node, for the next table.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pyproxy.kernel.libbpf import MapInfo

FORMAT = 1  # of to_bytes(): another one is kept under other keys

INSTRUCTION = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_LD_IMM64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM: two instructions long
_PSEUDO_MAP_FD = 1  # the source register of one that loads a map, given by its descriptor
_SUM = hashlib.sha256


class MapShape(NamedTuple):
    """How to make a map: numbers of the kernel, sizes in bytes, types as ids in the BTF."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_key_type: int
    btf_value_type: int

    @classmethod
    def of(cls, info: MapInfo) -> MapShape:
        """Return the shape of a map that the kernel tells of."""
        return cls(*(getattr(info, field) for field in cls._fields))


class Code(NamedTuple):
    """A program's instructions, and which of them (by index) load which map (by name)."""

    instructions: bytes
    maps: tuple[tuple[int, str], ...]

    @classmethod
    def read(cls, instructions: bytes, names: Mapping[int, str]) -> Code:
        """Return the code of instructions that load maps by descriptor, as `names` has them."""
        found = tuple((index, names[fd]) for index, fd in _map_loads(instructions))
        code = cls(instructions, found)
        # whose descriptors they were is no part of it
        return code._replace(instructions=code.linked(dict.fromkeys(names.values(), 0)))

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """Return the instructions, loading maps by these descriptors."""
        raw = bytearray(self.instructions)
        for index, name in self.maps:
            at = index * INSTRUCTION.size
            code, registers, offset, _ = INSTRUCTION.unpack_from(raw, at)
            INSTRUCTION.pack_into(raw, at, code, registers, offset, descriptors[name])
        return bytes(raw)


class Bytecode(NamedTuple):
    """A compiled object: programs and maps by name, and the BTF that describes the maps."""

    programs: dict[str, Code]
    maps: dict[str, MapShape]
    btf: bytes

    def to_bytes(self, key: str) -> bytes:
        """Return it as from_bytes() reads it, under the key that it is kept by."""
        programs = {
            name: (_text(code.instructions), code.maps) for name, code in self.programs.items()
        }
        content = json.dumps((programs, self.maps, _text(self.btf))).encode()
        return _SUM(key.encode() + content).digest() + content

    @classmethod
    def from_bytes(cls, raw: bytes, key: str) -> Bytecode | None:
        """Return what to_bytes() was given, None if these bytes are not what it returned."""
        size = _SUM().digest_size
        content = raw[size:]
        if raw[:size] != _SUM(key.encode() + content).digest():
            return None
        programs, maps, btf = json.loads(content)
        return cls(
            {
                name: Code(base64.b64decode(text), tuple((index, of) for index, of in loads))
                for name, (text, loads) in programs.items()
            },
            {name: MapShape(*numbers) for name, numbers in maps.items()},
            base64.b64decode(btf),
        )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _map_loads(instructions: bytes) -> Iterator[tuple[int, int]]:
    """Yield index and descriptor of each instruction that loads a map."""
    second = False
    for index, (code, registers, _, immediate) in enumerate(INSTRUCTION.iter_unpack(instructions)):
        if not second and code == _LD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            yield index, immediate
        second = not second and code == _LD_IMM64

# SPDX-License-Identifier: Apache-2.0
"""Compiled objects as data."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kernel.bytecode import Bytecode, Code, MapShape

LD_IMM64, MOV64, PSEUDO_MAP_FD = 0x18, 0xB7, 1  # include/uapi/linux/bpf.h
NAMES = {7: "frontends", 9: "services"}


def instruction(code: int, source: int = 0, immediate: int = 0) -> bytes:
    """Return one struct bpf_insn that writes register 3."""
    return struct.pack("=BBhi", code, source << 4 | 3, 0, immediate)


def load_map(fd: int) -> bytes:
    """Return the two instructions that load a map."""
    return instruction(LD_IMM64, PSEUDO_MAP_FD, fd) + instruction(0)


def test_maps_are_found_by_their_descriptors() -> None:
    """Each instruction that loads one is known by its map's name, wherever it stands."""
    raw = load_map(9) + instruction(MOV64, immediate=7) + load_map(7) + load_map(9)
    code = Code.read(raw, NAMES)
    assert code.maps == ((0, "services"), (3, "frontends"), (5, "services"))
    assert code.linked({"services": 9, "frontends": 7}) == raw


def test_descriptors_of_another_process_are_put_in() -> None:
    """And nothing else is changed."""
    raw = instruction(MOV64, immediate=9) + load_map(9)
    assert Code.read(raw, NAMES).linked({"services": 40}) == (
        instruction(MOV64, immediate=9) + load_map(40)
    )


def test_code_does_not_depend_on_the_descriptors_it_was_compiled_with() -> None:
    """What is kept is the same on every machine."""
    assert Code.read(load_map(9), NAMES) == Code.read(load_map(4), {4: "services"})


def test_numbers_are_no_maps() -> None:
    """A 64-bit number, and a second half that looks like the load of a map."""
    number = instruction(LD_IMM64, 0, 9) + instruction(0)
    disguised = instruction(LD_IMM64, 0, 1) + instruction(LD_IMM64, PSEUDO_MAP_FD, 7)
    assert Code.read(number + disguised, NAMES).maps == ()


words = st.integers(0, 2**32 - 1)
codes = st.builds(Code, st.binary(), st.lists(st.tuples(words, st.text()), max_size=3).map(tuple))
shapes = st.tuples(*[words] * len(MapShape._fields)).map(MapShape._make)
objects = st.builds(
    Bytecode,
    st.dictionaries(st.text(), codes, max_size=3),
    st.dictionaries(st.text(), shapes, max_size=3),
    st.binary(),
)


@given(objects)
def test_what_is_kept_is_what_was_compiled(made: Bytecode) -> None:
    """Written and read, nothing is lost."""
    assert Bytecode.from_bytes(made.to_bytes("key"), "key") == made


@given(objects, st.data())
def test_what_was_changed_is_nothing(made: Bytecode, data: st.DataObject) -> None:
    """A byte that is another, or an end that is missing."""
    raw = bytearray(made.to_bytes("key"))
    at = data.draw(st.integers(0, len(raw) - 1))
    assert Bytecode.from_bytes(bytes(raw[:at]), "key") is None
    raw[at] ^= data.draw(st.integers(1, 255))
    assert Bytecode.from_bytes(bytes(raw), "key") is None


@given(objects, st.text(), st.text())
def test_what_was_kept_by_another_name_is_nothing(made: Bytecode, key: str, other: str) -> None:
    """Somebody has renamed the file."""
    assert (Bytecode.from_bytes(made.to_bytes(key), other) == made) is (key == other)

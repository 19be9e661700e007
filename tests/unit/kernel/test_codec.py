# SPDX-License-Identifier: Apache-2.0
"""Layouts come from BTF; records survive the way there and back."""

from __future__ import annotations

import struct

import pytest

from pyproxy.errors import KernelError
from pyproxy.kernel.btf import Field, Types
from pyproxy.kernel.codec import Codec, addr_fold, text


def blob() -> bytes:
    """Return hand-made BTF of a struct with a port, an address and an anonymous union."""
    strings = b"\0u8\0u16\0u32\0b\0a\0port\0addr\0x\0s\0"
    at = {name: strings.index(b"\0" + name + b"\0") + 1 for name in strings.split(b"\0") if name}

    def head(name: bytes, kind: int, vlen: int, size: int) -> bytes:
        return struct.pack("=III", at.get(name, 0), kind << 24 | vlen, size)

    types = head(b"u8", 1, 0, 1) + struct.pack("=I", 8)  # 1
    types += head(b"u16", 1, 0, 2) + struct.pack("=I", 16)  # 2
    types += head(b"u32", 1, 0, 4) + struct.pack("=I", 32)  # 3
    types += head(b"", 3, 0, 0) + struct.pack("=III", 1, 3, 4)  # 4: u8[4]
    types += head(b"a", 4, 1, 4) + struct.pack("=III", at[b"b"], 4, 0)  # 5
    types += head(b"", 5, 1, 4) + struct.pack("=III", at[b"x"], 3, 0)  # 6: union
    members = ((b"port", 2, 0), (b"addr", 5, 32), (b"", 6, 64))
    types += head(b"s", 4, 3, 12)  # 7
    types += b"".join(struct.pack("=III", at.get(n, 0), t, o) for n, t, o in members)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def test_btf_gives_names_offsets_and_sizes() -> None:
    """Nested structs, arrays and anonymous unions are found by dotted names."""
    assert Types(blob()).fields(7) == {
        "port": Field(0, 2, is_integer=True),
        "addr": Field(4, 4, is_integer=False),
        "x": Field(8, 4, is_integer=True),
    }


def test_a_record_comes_back_in_the_order_of_its_names() -> None:
    """The order of names is the caller's, the order of bytes the kernel's."""
    codec = Codec(Types(blob()).fields(7), 12, ("addr", "x", "port"))
    raw = codec.pack(b"\x0a\0\0\1", 7, 80)
    assert raw == struct.pack("=HH4sI", 80, 0, b"\x0a\0\0\1", 7)
    assert codec.unpack(raw) == (b"\x0a\0\0\1", 7, 80)


def test_a_field_the_kernel_does_not_have_is_named() -> None:
    """A pinned map of another layout is refused with the name of the field."""
    with pytest.raises(KernelError, match="nothere"):
        Codec(Types(blob()).fields(7), 12, ("nothere",))


def test_text_ends_at_the_first_zero() -> None:
    """Names in maps are zero-terminated."""
    assert text(b"kube-dns\0\0\0") == "kube-dns"


def test_addr_fold_of_ipv4_is_the_address() -> None:
    """For IPv4 the check in a frontend is exact."""
    assert addr_fold(b"\x0a\x60\0\1") == int.from_bytes(b"\x0a\x60\0\1", "little")
    assert addr_fold(bytes(12) + b"\0\0\0\1") == 1 << 24

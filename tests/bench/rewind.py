# SPDX-License-Identifier: Apache-2.0
"""A program that makes a packet what it was, and then enters another program.

BPF_PROG_TEST_RUN runs a program many times on one packet, as the run before has left it: one that
was translated is no frontend's any more. So each run goes through this program first. It writes
the headers anew, forgets what the packet path notes in the packet's fields, and can give each run
ports of its own, so that each begins a connection, or has an end that none had before. Checksums
stay as they are: no program looks at one. What this takes is known from an empty program that is
entered the same way.

It is loaded as it stands here, without a compiler, as nothing in it depends on the machine.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import ExitStack
from typing import Self

from pyproxy.kernel import libbpf
from tests.lab import foreign

# include/uapi/linux/bpf.h
MAP_ARRAY, MAP_PROG_ARRAY = 2, 3
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 1, 2
SKB_STORE_BYTES, TAIL_CALL = 9, 12
TC_INDEX_AT, CB_AT = 44, 48  # offsets in struct __sk_buff
CB_WORDS = 5

# of include/uapi/linux/bpf.h, and linux/bpf_common.h: class, size and mode in one
LOAD_WIDE, LOAD_WORD, STORE_WORD, STORE_HALF = 0x18, 0x61, 0x63, 0x6B
MOVE, MOVE_VALUE, ADD, CALL, EXIT = 0xBF, 0xB7, 0x0F, 0x85, 0x95

ETHERNET_BYTES = 14
HEADERS_ROOM = 64
# Source and destination port: what lies in the packet, and how much each run adds to it.
COUNTS = struct.Struct("=IIII")
R0, R1, R2, R3, R4, R5, R6, R7 = range(8)


class Rewind:
    """Enters a program on a packet that is as it was; `ip_bytes` is its IP header's length."""

    def __init__(self, program: int, ip_bytes: int, transport_bytes: int) -> None:
        self._ip_bytes = ip_bytes
        self._length = ip_bytes + transport_bytes
        self._program = program
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._load()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _load(self) -> None:
        size = COUNTS.size + HEADERS_ROOM
        self._packet = self._kept(foreign.made_map(MAP_ARRAY, 4, size, 1))
        entered = self._kept(foreign.made_map(MAP_PROG_ARRAY, 4, 4, 1))
        code = instructions(self._packet, entered, self._ip_bytes, self._length)
        self.fd = self._kept(foreign.loaded(foreign.SCHED_CLS, 0, code))
        libbpf.map_update(entered, bytes(4), self._program.to_bytes(4, sys.byteorder))

    def _kept(self, fd: int) -> int:
        self._undo.callback(os.close, fd)
        return fd

    def write(self, frame: bytes, steps: tuple[int, int] = (0, 0)) -> None:
        """Say what the packet is; each run adds the steps to the bytes of both ports first."""
        headers = frame[ETHERNET_BYTES : ETHERNET_BYTES + self._length]
        ports = struct.unpack_from("=HH", headers, self._ip_bytes)
        value = COUNTS.pack(ports[0], steps[0], ports[1], steps[1])
        value += headers.ljust(HEADERS_ROOM, b"\0")
        libbpf.map_update(self._packet, bytes(4), value)


def instructions(packet: int, entered: int, ip_bytes: int, length: int) -> bytes:
    """Return the program, with the descriptors of its maps."""
    fields = [TC_INDEX_AT, *(CB_AT + 4 * n for n in range(CB_WORDS))]
    return b"".join(
        (
            _one(MOVE, R6, R1),
            _one(MOVE_VALUE, R1),
            *(_one(STORE_WORD, R6, R1, offset) for offset in fields),
            _wide(R7, PSEUDO_MAP_VALUE, packet),
            *_port_stepped(0, COUNTS.size + ip_bytes),
            *_port_stepped(8, COUNTS.size + ip_bytes + 2),
            _one(MOVE, R1, R6),
            _one(MOVE_VALUE, R2, value=ETHERNET_BYTES),
            _wide(R3, PSEUDO_MAP_VALUE, packet, COUNTS.size),
            _one(MOVE_VALUE, R4, value=length),
            _one(MOVE_VALUE, R5),
            _one(CALL, value=SKB_STORE_BYTES),
            _one(MOVE, R1, R6),
            _wide(R2, PSEUDO_MAP_FD, entered),
            _one(MOVE_VALUE, R3),
            _one(CALL, value=TAIL_CALL),
            _one(MOVE_VALUE, R0, value=foreign.TCX_NEXT),
            _one(EXIT),
        )
    )


def _port_stepped(count: int, port: int) -> tuple[bytes, ...]:
    """Return what adds a step to a count and writes it as a port, by offsets in the map's value."""
    return (
        _one(LOAD_WORD, R1, R7, count),
        _one(LOAD_WORD, R2, R7, count + 4),
        _one(ADD, R1, R2),
        _one(STORE_WORD, R7, R1, count),
        _one(STORE_HALF, R7, R1, port),
    )


def _one(code: int, to: int = 0, by: int = 0, offset: int = 0, value: int = 0) -> bytes:
    registers = by << 4 | to if sys.byteorder == "little" else to << 4 | by
    return struct.pack("=BBhi", code, registers, offset, value)


def _wide(to: int, kind: int, fd: int, offset: int = 0) -> bytes:
    """Return the two instructions that load a map, or the address of a place in its value."""
    return _one(LOAD_WIDE, to, kind, value=fd) + _one(0, value=offset)

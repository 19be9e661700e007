# SPDX-License-Identifier: Apache-2.0
"""Pinned maps, opened with the layout that the kernel has of them."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pyproxy.kernel import libbpf
from pyproxy.kernel.btf import Field, Types
from pyproxy.kernel.codec import Codec


def _layouts(fd: int) -> tuple[dict[str, Field], dict[str, Field]]:
    info = libbpf.map_info(fd)
    types = Types(libbpf.btf(info.btf_id))
    return types.fields(info.btf_key_type), types.fields(info.btf_value_type)


class HashMap:
    """A hash map whose keys and values are tuples of the named fields."""

    def __init__(self, path: str, key: Sequence[str], value: Sequence[str]) -> None:
        self.fd = libbpf.obj_get(path)
        self.info = libbpf.map_info(self.fd)
        key_layout, self.layout = _layouts(self.fd)
        self.key = Codec(key_layout, self.info.key_size, key)
        self.value = Codec(self.layout, self.info.value_size, value)

    def items(self) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Return all elements."""
        return [(self.key.unpack(key), self.value.unpack(value)) for key, value in self.raw()]

    def raw(self) -> list[tuple[bytes, bytes]]:
        """Return the bytes of all elements."""
        return libbpf.map_dump(self.fd, self.info.key_size, self.info.value_size)

    def __len__(self) -> int:
        return libbpf.map_count(self.fd, self.info.key_size, self.info.value_size)

    def update(self, items: Sequence[tuple[tuple[Any, ...], tuple[Any, ...]]]) -> None:
        """Write elements; raises MapFullError when they do not all fit."""
        for start in range(0, len(items), libbpf.BATCH):
            part = items[start : start + libbpf.BATCH]
            keys = b"".join(self.key.pack(*key) for key, _ in part)
            values = b"".join(self.value.pack(*value) for _, value in part)
            libbpf.map_update_batch(self.fd, keys, values, len(part))

    def get(self, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return an element's value, None if there is none."""
        found = libbpf.map_lookup(self.fd, self.key.pack(*key), self.info.value_size)
        return None if found is None else self.value.unpack(found)

    def has(self, key: tuple[Any, ...], value: tuple[Any, ...]) -> bool:
        """Return whether an element is in the map as update() writes it, to the last byte."""
        found = libbpf.map_lookup(self.fd, self.key.pack(*key), self.info.value_size)
        return found == self.value.pack(*value)

    def delete(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Delete elements; those that are gone already are not missed."""
        for key in keys:
            libbpf.map_delete(self.fd, self.key.pack(*key))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


# A mapped window counts as the agent's memory whole, so windows are small, few, and made on demand.
WINDOW = 1 << 18
WINDOWS = 4


class ArrayMap:
    """A mmap-able array: reading and writing it is reading and writing memory."""

    def __init__(self, path: str, *, write: bool) -> None:
        self.fd = libbpf.obj_get(path)
        self.info = libbpf.map_info(self.fd)
        self.layout = _layouts(self.fd)[1]
        # the kernel rounds an array's elements up to 8 bytes (array_map_alloc); ours are all
        # powers of two, so that none lies in two windows
        self.stride = -(-self.info.value_size // 8) * 8
        self.max = self.info.max_entries
        self._length = -(-self.stride * self.max // mmap.PAGESIZE) * mmap.PAGESIZE
        self._prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self._windows: dict[int, mmap.mmap] = {}

    def codec(self, names: Sequence[str]) -> Codec:
        """Return a codec for some fields of the elements."""
        return Codec(self.layout, self.stride, names)

    def read(self, index: int, count: int = 1) -> bytes:
        """Return `count` elements from `index` on."""
        start, end = index * self.stride, (index + count) * self.stride
        parts = []
        while start < end:
            base = start - start % WINDOW
            stop = min(end, base + WINDOW)
            parts.append(self._window(base)[start - base : stop - base])
            start = stop
        return b"".join(parts)

    def write(self, index: int, raw: bytes) -> None:
        """Write elements from `index` on."""
        start, done = index * self.stride, 0
        while done < len(raw):
            base = start - start % WINDOW
            part = raw[done : done + base + WINDOW - start]
            self._window(base)[start - base : start - base + len(part)] = part
            start, done = start + len(part), done + len(part)

    def write_byte(self, index: int, offset: int, value: int) -> None:
        """Write one byte of an element, and nothing beside it."""
        start = index * self.stride + offset
        base = start - start % WINDOW
        self._window(base)[start - base] = value

    def clear_bytes(self, offset: int) -> None:
        """Write 0 to one byte of every element, and nothing beside it."""
        for base in range(0, self.stride * self.max, WINDOW):
            end = min(WINDOW, self.stride * self.max - base)
            with memoryview(self._window(base)) as view, view[offset : end : self.stride] as plane:
                plane[:] = bytes(len(plane))

    def load(self, index: int) -> int:
        """Return an 8-byte element as a number."""
        return int.from_bytes(self.read(index), sys.byteorder)

    def store(self, index: int, word: int) -> None:
        """Write an 8-byte element by one aligned store."""
        start = index * self.stride
        base = start - start % WINDOW
        # item assignment of a "Q" view is one move of 8 bytes; slices are copied in pieces
        with memoryview(self._window(base)) as view, view.cast("Q") as words:
            words[(start - base) // 8] = word

    def close(self) -> None:
        """Unmap the array and close the descriptor."""
        for window in self._windows.values():
            window.close()
        os.close(self.fd)

    def _window(self, base: int) -> mmap.mmap:
        if base not in self._windows:
            if len(self._windows) == WINDOWS:
                self._windows.pop(next(iter(self._windows))).close()
            length = min(WINDOW, self._length - base)
            self._windows[base] = mmap.mmap(
                self.fd, length, mmap.MAP_SHARED, self._prot, offset=base
            )
        return self._windows[base]

# SPDX-License-Identifier: Apache-2.0
"""The marks of frontends: whether a packet's end is worth a look-up (struct mark of bpf/types.h).

A bit of a mark is shared by all frontends whose addresses and ports hash alike: they are counted.
That of a NodePort, which has no address, is looked at for ports in a range alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pyproxy.kernel.codec import addr_fold
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import NODE_PORT_RANGE, PREFIXES, SETTINGS
from pyproxy.model import Address, Family, Prefix, family_of
from pyproxy.sync.api import FrontendValue
from pyproxy.tables import FrontendKey, Kind

_GOLDEN = 0x9E3779B1
_MOST_PREFIX_BITS = 8  # 256 prefixes set nearly every bit of 64


def _product(value: int) -> int:
    return value * _GOLDEN & 0xFFFFFFFF


def endpoint_hash(address: Address, port: int) -> int:
    """Return where the mark of an address and port is, as bpf/marks.h does."""
    return _product(addr_fold(address) + port) >> 16


def frontend_bit(address: Address, port: int) -> int:
    """Return the bit of a frontend in its mark, as bpf/marks.h does."""
    return 1 << (_product(addr_fold(address) + port) >> 13 & 7)


def prefix_bit(address: Address) -> int:
    """Return the bit that stands for an address's network, as bpf/marks.h has it."""
    ipv4 = family_of(address) is Family.IPV4
    prefix = int.from_bytes(address[:2], "big") if ipv4 else addr_fold(address[:8])
    return 1 << (_product(prefix) >> 16 & 63)


def prefix_bits(prefix: Prefix) -> int:
    """Return the bits that stand for all addresses of a network; all bits for one of many."""
    size = 2 if family_of(prefix.address) is Family.IPV4 else 8
    more = 8 * size - prefix.length
    if more <= 0:
        return prefix_bit(prefix.address)
    if more > _MOST_PREFIX_BITS:
        return (1 << 64) - 1
    first = int.from_bytes(prefix.address[:size], "big")
    found = 0
    for number in range(first, first + (1 << more)):
        found |= prefix_bit(number.to_bytes(size, "big") + prefix.address[size:])
    return found


class FrontendMarks:
    """The frontends' bytes of a pinned map of marks, and two settings that say "perhaps" first.

    Those are the networks of what must not leave the node, and the range of NodePorts. Only reset()
    narrows them.
    """

    def __init__(self, marks: ArrayMap, settings: ArrayMap) -> None:
        self._marks = marks
        self._settings = settings
        self._prefixes = self._strict = 0
        self._node_ports = range(0)
        self._offset = marks.layout["frontend"].offset
        # by place: a mark's index, and which of its bits
        self._counts: Counter[tuple[int, int]] = Counter()
        self._wanted = bytearray(marks.max)

    def reset(self, frontends: Iterable[tuple[FrontendKey, FrontendValue]]) -> None:
        """Take over what is in the kernel: mark these frontends and no others."""
        self._counts.clear()
        self._wanted = bytearray(self._marks.max)
        self._prefixes, self._node_ports = 0, range(0)
        for key, to in frontends:
            index, bit = _place(key.address, key.port)
            self._counts[index, bit] += 1
            self._wanted[index] |= bit
            self._note(key, to)
        self.mend()

    def mend(self) -> int:
        """Store what is not in the kernel as it was stored; return how much that was."""
        present = self._marks.read(0, self._marks.max)[self._offset :: self._marks.stride]
        wanted, wrong = bytes(self._wanted), []
        if present != wanted:
            wrong = [index for index in range(len(wanted)) if present[index] != wanted[index]]
        for index in wrong:
            self._store(index)
        return len(wrong) + self._store_settings()

    def add(self, key: FrontendKey, to: FrontendValue) -> None:
        """Mark a frontend that is about to be written."""
        if self._note(key, to):
            self._store_settings()
        self.note(key.address, key.port)

    def remove(self, key: FrontendKey) -> None:
        """Forget a frontend that was deleted."""
        self.forget(key.address, key.port)

    def note(self, address: Address, port: int) -> None:
        """Have packets to an address and port looked at."""
        place = index, bit = _place(address, port)
        self._counts[place] += 1
        if self._counts[place] == 1:
            self._wanted[index] |= bit
            self._store(index)

    def forget(self, address: Address, port: int) -> None:
        """Take back one note()."""
        place = index, bit = _place(address, port)
        if self._counts[place] > 1:
            self._counts[place] -= 1
        elif self._counts.pop(place, 0):
            self._wanted[index] &= ~bit
            self._store(index)

    def note_strict(self, prefixes: int) -> None:
        """Say of which further networks, as bits, nothing must leave that is for no service."""
        if prefixes != self._strict:
            self._strict = prefixes
            self._store_settings()

    def _note(self, key: FrontendKey, to: FrontendValue) -> bool:
        """Widen what the settings are to say; return whether they say something else now."""
        before = self._prefixes, self._node_ports
        if to.kind is Kind.CLUSTER_IP or to.filtered:
            self._prefixes |= prefix_bit(key.address)
        if to.kind is Kind.NODE_PORT:
            ports = self._node_ports or range(key.port, key.port + 1)
            self._node_ports = range(min(ports[0], key.port), max(ports[-1], key.port) + 1)
        return before != (self._prefixes, self._node_ports)

    def _store_settings(self) -> int:
        """Say "perhaps" of what there is; return how many settings said something else."""
        ports = self._node_ports
        said = {
            PREFIXES: self._prefixes | self._strict,
            NODE_PORT_RANGE: ports.start | len(ports) << 32,
        }
        wrong = [
            name for name, word in said.items() if self._settings.load(SETTINGS.index(name)) != word
        ]
        for name in wrong:
            self._settings.store(SETTINGS.index(name), said[name])
        return len(wrong)

    def _store(self, index: int) -> None:
        self._marks.write_byte(index, self._offset, self._wanted[index])


def _place(address: Address, port: int) -> tuple[int, int]:
    return endpoint_hash(address, port), frontend_bit(address, port)

# SPDX-License-Identifier: Apache-2.0
"""cluster_cidrs: addresses of services by which nothing but services may be asked (A8.6, A8.7).

In nftables mode kube-proxy refuses new connections to a ClusterIP that are for none of its ports,
and drops those to an address of a ServiceCIDR that no service has. In iptables mode the map has
the ClusterIPs alone, and only fragments whose ports nobody knows are looked up (bpf/headers.c).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.marks import FrontendMarks, prefix_bits
from pyproxy.kernel.packetpath import SETTINGS, STRICT_PREFIXES
from pyproxy.model import Address, Prefix
from pyproxy.tables import FrontendKey, Kind


class Strictness(enum.IntEnum):
    """What is done to a new connection: enum strictness of bpf/types.h."""

    REFUSE = 1
    DROP = 2
    NOTHING = 3


class ClusterCidrs:
    """The pinned map of one family, kept equal to the frontends and the cluster's ServiceCIDRs."""

    def __init__(self, cidrs: HashMap, settings: ArrayMap, marks: FrontendMarks) -> None:
        self._map = cidrs
        self._settings = settings
        self._marks = marks
        self._counts: Counter[Address] = Counter()
        self._cidrs: tuple[Prefix, ...] = ()
        self._is_strict = False
        self._bits = 0

    def reset(self, frontends: Iterable[tuple[FrontendKey, Kind]]) -> None:
        """Take over which frontends there are."""
        self._counts = Counter(key.address for key, kind in frontends if kind is Kind.CLUSTER_IP)
        self._bring()

    def is_cluster_ip(self, address: Address) -> bool:
        """Return whether some service has an address as ClusterIP."""
        return address in self._counts

    def restrict(self, cidrs: tuple[Prefix, ...] | None) -> None:
        """Be strict with these ServiceCIDRs and all ClusterIPs; None: not at all."""
        self._is_strict, self._cidrs = cidrs is not None, cidrs or ()
        self._bring()

    def mend(self) -> int:
        """Make the map what it was; return how many entries of it were not."""
        return self._bring()

    def _bring(self) -> int:
        """Make the map what it should be; return how many entries were not."""
        before = {Prefix(a, n): value for (n, a), (value,) in self._map.items()}
        wanted = {prefix: self._value(prefix) for prefix in self._prefixes()}
        changed = {p: to for p, to in wanted.items() if before.get(p) != to}
        gone = before.keys() - wanted.keys()
        # a packet is looked at before it can be refused, and no longer than that
        self._note((wanted.keys() | before.keys()) if self._is_strict else ())
        self._write(changed)
        self._map.delete((p.length, p.address) for p in gone)
        self._note(wanted if self._is_strict else ())
        return len(changed) + len(gone)

    def add(self, frontends: Iterable[tuple[FrontendKey, Kind]]) -> None:
        """Count frontends that were written; their addresses are refused otherwise now."""
        new = []
        for key, kind in frontends:
            if kind is Kind.CLUSTER_IP:
                self._counts[key.address] += 1
                if self._counts[key.address] == 1:
                    new.append(_single(key.address))
        if self._is_strict and new:
            # what is noted already need not be worked out again for thousands of services
            self._note(new, self._bits)
        self._write({single: self._value(single) for single in new})

    def remove(self, frontends: Iterable[tuple[FrontendKey, Kind]]) -> None:
        """Forget frontends that were deleted."""
        for key, kind in frontends:
            if kind is not Kind.CLUSTER_IP or not self._counts[key.address]:
                continue
            self._counts[key.address] -= 1
            if not self._counts[key.address]:
                del self._counts[key.address]
                self._forget(_single(key.address))

    def _forget(self, single: Prefix) -> None:
        """Take a service's address out, unless it is all of a ServiceCIDR."""
        if single in self._cidrs:
            self._write({single: Strictness.DROP})
        else:
            self._map.delete([(single.length, single.address)])

    def _prefixes(self) -> Iterator[Prefix]:
        """Yield what should be in the map."""
        yield from self._cidrs
        for address in self._counts:
            yield _single(address)

    def _value(self, prefix: Prefix) -> Strictness:
        """Return what becomes of connections to a network that is in the map.

        An address of a service says more than the network that it is from, however long that is.
        """
        if prefix.address in self._counts and prefix == _single(prefix.address):
            return Strictness.REFUSE if self._is_strict else Strictness.NOTHING
        return Strictness.DROP

    def _write(self, items: Mapping[Prefix, Strictness]) -> None:
        self._map.update([((p.length, p.address), (int(to),)) for p, to in items.items()])

    def _note(self, prefixes: Iterable[Prefix], bits: int = 0) -> None:
        """Say that these networks are looked at, and those whose bits are given."""
        for prefix in prefixes:
            bits |= prefix_bits(prefix)
        self._bits = bits
        self._settings.store(SETTINGS.index(STRICT_PREFIXES), bits)
        self._marks.note_strict(bits)


def _single(address: Address) -> Prefix:
    return Prefix(address, 8 * len(address))

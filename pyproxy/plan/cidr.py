# SPDX-License-Identifier: Apache-2.0
"""Is an address in a CIDR: on bytes in network order, of both families."""

from __future__ import annotations

from collections.abc import Iterable

from pyproxy.model import Address, Prefix


def contains(prefix: Prefix, address: Address) -> bool:
    """Whether a prefix contains an address; never across families."""
    if len(prefix.address) != len(address):
        return False
    shift = 8 * len(address) - prefix.length
    difference = int.from_bytes(prefix.address, "big") ^ int.from_bytes(address, "big")
    return difference >> shift == 0


def in_any(address: Address, prefixes: Iterable[Prefix]) -> bool:
    """Whether any of the prefixes contains an address."""
    return any(contains(prefix, address) for prefix in prefixes)


def masked(address: Address, length: int) -> Prefix:
    """Return the network that an address is in, by its number of bits."""
    bits = 8 * len(address)
    kept = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return Prefix(kept.to_bytes(len(address), "big"), length)

# SPDX-License-Identifier: Apache-2.0
"""Which of the node's addresses goes with a packet, by where that goes (rule 8).

For clients MASQUERADE takes the first address in the subnet of the next hop (inet_select_addr), and
so do we. What the node's own processes send from the kernel is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pyproxy.kernel.addresses import NODE
from pyproxy.kernel.netlink import Hop, Own, source_towards
from pyproxy.model import Address, Prefix
from pyproxy.plan.cidr import in_any, masked

IPV6_BYTES = 16
UNIQUE_LOCAL = Prefix(b"\xfc" + bytes(15), 7)  # RFC 4193
WORLD = Prefix(b"\x20" + bytes(15), 3)  # RFC 4291 2.4


class Way(NamedTuple):
    """A network, and the device by which packets go there."""

    ifindex: int
    to: Prefix


def hop_sources(addresses: Iterable[Own], hops: Iterable[Hop]) -> dict[Way, Address]:
    """Return which address stands for clients; devices with one address are not among them.

    `addresses` are in the kernel's order: the first of a subnet counts.
    """
    by_device: defaultdict[int, list[Own]] = defaultdict(list)
    for own in addresses:
        by_device[own.ifindex].append(own)
    several = {ifindex: own for ifindex, own in by_device.items() if len(own) > 1}
    found: dict[Way, Address] = {}
    for hop in hops:
        for own in _near(several.get(hop.ifindex, ()), hop.gateway):
            found.setdefault(Way(hop.ifindex, hop.to), own.address)
    # what needs no gateway is nearer than any route that has one
    for ifindex, owns in several.items():
        found |= _by_scope(ifindex, owns)
        found |= {Way(ifindex, _subnet(own)): own.address for own in reversed(owns)}
    return needed(found)


def own_sources(asked: Iterable[Address]) -> dict[Way, Address]:
    """Return what the node's own processes ask each of some addresses from, where a route leads.

    Raises OSError where the kernel cannot be asked.
    """
    found = {Way(NODE, Prefix(each, 8 * len(each))): source_towards(each) for each in asked}
    return {way: source for way, source in found.items() if source}


def needed(ways: Mapping[Way, Address]) -> dict[Way, Address]:
    """Leave out what the next larger network says as well: nodes have thousands of routes."""
    lengths: defaultdict[int, set[int]] = defaultdict(set)
    for way in ways:
        lengths[way.ifindex].add(way.to.length)
    longest_first = {ifindex: sorted(each, reverse=True) for ifindex, each in lengths.items()}

    def larger(way: Way) -> Address | None:
        shorter = (each for each in longest_first[way.ifindex] if each < way.to.length)
        around = (Way(way.ifindex, masked(way.to.address, each)) for each in shorter)
        return next((ways[each] for each in around if each in ways), None)

    return {way: address for way, address in ways.items() if larger(way) != address}


def _by_scope(ifindex: int, owns: Iterable[Own]) -> dict[Way, Address]:
    """Return which address of a device is for which part of IPv6, where it has both kinds.

    A global address for all the world, a unique local one among its like: whoever chooses by the
    longest prefix in common does so (RFC 6724 5, rule 8), and gateways mostly have link-local ones.
    """
    globally = [own for own in owns if len(own.address) == IPV6_BYTES]
    local = [own for own in globally if in_any(own.address, (UNIQUE_LOCAL,))]
    world = [own for own in globally if own not in local]
    if not (local and world):
        return {}
    return {Way(ifindex, UNIQUE_LOCAL): local[0].address, Way(ifindex, WORLD): world[0].address}


def _near(owns: Iterable[Own], gateway: Address) -> Iterator[Own]:
    return (own for own in owns if gateway and in_any(gateway, (_subnet(own),)))


def _subnet(own: Own) -> Prefix:
    return masked(own.address, own.length)

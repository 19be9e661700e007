# SPDX-License-Identifier: Apache-2.0
"""Frontends are marked as long as any of them needs the mark, and not longer."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.kernel.btf import Field
from pyproxy.kernel.marks import (
    FrontendMarks,
    endpoint_hash,
    frontend_bit,
    prefix_bit,
    prefix_bits,
)
from pyproxy.kernel.packetpath import NODE_PORT_RANGE, PREFIXES, SETTINGS
from pyproxy.model import Prefix
from pyproxy.plan.cidr import masked
from pyproxy.sync.api import FrontendValue
from pyproxy.tables import FrontendKey, Kind

STRIDE, OFFSET = 8, 0
MARKS = 1 << 16

End = tuple[bytes, int]


class Marks:
    """A map of marks out of bytes; `stores` are the elements that were written, in order."""

    layout = {"frontend": Field(OFFSET, 1, is_integer=True)}  # noqa: RUF012 - never changed
    stride, max = STRIDE, MARKS

    def __init__(self) -> None:
        self.raw = bytearray(STRIDE * MARKS)
        self.stores: list[int] = []

    def read(self, index: int, count: int = 1) -> bytes:
        """Return elements."""
        return bytes(self.raw[index * STRIDE : (index + count) * STRIDE])

    def write_byte(self, index: int, offset: int, value: int) -> None:
        """Write one byte of an element."""
        self.stores.append(index)
        self.raw[index * STRIDE + offset] = value

    def marked(self) -> set[int]:
        """Return which elements have the frontends' byte."""
        return {index for index, byte in enumerate(self.raw[OFFSET::STRIDE]) if byte}


class Settings:
    """A map of settings, of which two are written."""

    def __init__(self) -> None:
        self.values = {PREFIXES: 0, NODE_PORT_RANGE: 0}

    @property
    def prefixes(self) -> int:
        """The networks of frontends."""
        return self.values[PREFIXES]

    @property
    def node_ports(self) -> tuple[int, int]:
        """The first port of the range of NodePorts, and how many there are."""
        return self.values[NODE_PORT_RANGE] & 0xFFFFFFFF, self.values[NODE_PORT_RANGE] >> 32

    def load(self, index: int) -> int:
        """Return a setting."""
        return self.values[SETTINGS[index]]

    def store(self, index: int, word: int) -> None:
        """Write a setting."""
        assert SETTINGS[index] in {PREFIXES, NODE_PORT_RANGE}
        self.values[SETTINGS[index]] = word


INSIDE, NODE_PORT = FrontendValue(1, Kind.CLUSTER_IP), FrontendValue(1, Kind.NODE_PORT)


def key(one: End) -> FrontendKey:
    """Return the frontend of an end."""
    return FrontendKey(*one, 6)


def over(marks: Marks, settings: Settings | None = None) -> FrontendMarks:
    """Return the frontends' marks over a map out of bytes."""
    return FrontendMarks(
        marks,  # type: ignore[arg-type] # what it uses of an ArrayMap is there
        settings or Settings(),  # type: ignore[arg-type] # and here
    )


def end(number: int, port: int = 80) -> End:
    """Return 10.96.x.y and a port."""
    return bytes((10, 96, number >> 8, number & 255)), port


# 10.96.0.1:81 and 11.96.0.1:80: the sums of word and port are alike, and so is their mark
TWINS = ((bytes((10, 96, 0, 1)), 81), (bytes((11, 96, 0, 1)), 80))


@pytest.mark.parametrize(
    ("address", "port", "index"),
    [
        # the upper half of (0x0100600a + 80) * 0x9e3779b1, worked out by hand
        (bytes((10, 96, 0, 1)), 80, (0x0100605A * 0x9E3779B1 & 0xFFFFFFFF) >> 16),
        (bytes(4), 0, 0),
        (bytes(4), 1, 0x9E37),
        (b"\xff" * 4, 65535, (0xFFFE * 0x9E3779B1 & 0xFFFFFFFF) >> 16),
        (bytes(15) + b"\x01", 53, ((1 << 24) + 53) * 0x9E3779B1 % (1 << 32) >> 16),
    ],
)
def test_an_ends_mark_is_where_the_formula_says(address: bytes, port: int, index: int) -> None:
    """Addresses as words of the machine, sums modulo 2^32; tests/datapath asks the programs."""
    assert endpoint_hash(address, port) == index
    assert 0 <= index < MARKS


def test_all_marks_are_used_alike() -> None:
    """4,096 ClusterIPs in a row share few marks: a packet that is no service's costs one load."""
    shared = Counter(endpoint_hash(*end(number)) for number in range(4096))
    assert max(shared.values()) <= 3


def test_a_mark_is_there_as_long_as_one_of_its_frontends() -> None:
    """Two frontends with one mark: it goes with the second, by one store each way."""
    assert endpoint_hash(*TWINS[0]) == endpoint_hash(*TWINS[1])
    marks, (one, two) = Marks(), TWINS
    ours = over(marks)
    ours.add(key(one), INSIDE)
    ours.add(key(two), INSIDE)
    assert marks.marked() == {endpoint_hash(*one)}
    ours.remove(key(one))
    assert marks.marked() == {endpoint_hash(*two)}
    ours.remove(key(two))
    assert marks.marked() == set()
    assert len(marks.stores) == 2


def test_a_mark_has_a_bit_for_each_of_its_frontends() -> None:
    """So that what only shares the mark is hardly ever looked up for it."""
    ends = (end(number & 0xFFFF, 80 + (number >> 16)) for number in range(1_000_000))
    one = next(ends)
    two = next(
        each
        for each in ends
        if endpoint_hash(*each) == endpoint_hash(*one) and frontend_bit(*each) != frontend_bit(*one)
    )
    marks, place = Marks(), endpoint_hash(*one) * STRIDE
    ours = over(marks)
    ours.add(key(one), INSIDE)
    assert marks.raw[place] == frontend_bit(*one)
    ours.add(key(two), INSIDE)
    assert marks.raw[place] == frontend_bit(*one) | frontend_bit(*two)
    ours.remove(key(one))
    assert marks.raw[place] == frontend_bit(*two)


@pytest.mark.parametrize(("product", "bit"), [(0, 1), (1 << 13, 2), (7 << 13, 128), (1 << 16, 1)])
def test_the_bit_is_three_more_of_the_hash(product: int, bit: int) -> None:
    """As bpf/marks.h has it: the value whose product that is, by the inverse of the factor."""
    value = product * pow(0x9E3779B1, -1, 1 << 32) % (1 << 32)
    address, port = value.to_bytes(4, sys.byteorder), 0
    assert frontend_bit(address, port) == bit


def test_an_unknown_frontend_is_not_missed() -> None:
    """Removing what was never marked changes nothing."""
    marks = Marks()
    ours = over(marks)
    ours.remove(key(end(1)))
    ours.add(key(end(1)), INSIDE)
    assert marks.marked() == {endpoint_hash(*end(1))}


def test_the_networks_of_frontends_are_set() -> None:
    """Before a frontend is marked its network is; both stay right when an agent takes over."""
    marks, settings = Marks(), Settings()
    ours = over(marks, settings)
    other = bytes((203, 0, 113, 7))
    ours.add(key(end(1)), INSIDE)
    assert settings.prefixes == prefix_bit(end(1)[0])
    ours.add(key((other, 443)), INSIDE)
    both = prefix_bit(end(1)[0]) | prefix_bit(other)
    assert settings.prefixes == both
    # "perhaps": forgetting it would need another count
    ours.remove(key((other, 443)))
    assert settings.prefixes & prefix_bit(end(1)[0])
    over(marks, settings).reset([(key(end(1)), INSIDE)])
    assert settings.prefixes == prefix_bit(end(1)[0])
    over(marks, settings).reset([])
    assert settings.prefixes == 0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (bytes((10, 96, 0, 1)), bytes((10, 96, 255, 9)), True),
        (bytes((10, 96, 0, 1)), bytes((10, 97, 0, 1)), False),
        (bytes(8) + bytes(range(8)), bytes(16), True),
        (b"\xfd" + bytes(15), bytes(16), False),
    ],
    ids=["ipv4-16", "ipv4-other", "ipv6-64", "ipv6-other"],
)
def test_one_bit_stands_for_a_network(one: bytes, other: bytes, *, alike: bool) -> None:
    """A /16 of IPv4 or a /64 of IPv6 has one of 64 bits, so that a service CIDR has few."""
    for bit in map(prefix_bit, (one, other)):
        assert bit.bit_count() == 1
        assert bit < 1 << 64
    assert (prefix_bit(one) == prefix_bit(other)) == alike


def test_what_an_earlier_agent_left_is_put_right() -> None:
    """Marks nobody needs go, missing ones come, right ones are not written; others' bytes stay."""
    marks = Marks()
    kept, missing, stray = (endpoint_hash(*end(number)) for number in (1, 2, 3))
    marks.raw[kept * STRIDE] = frontend_bit(*end(1))
    marks.raw[stray * STRIDE] = 1
    marks.raw[stray * STRIDE + 1] = 1
    over(marks).reset([(key(end(n)), INSIDE) for n in (1, 2)])
    assert marks.marked() == {kept, missing}
    assert set(marks.stores) == {missing, stray}
    assert marks.raw[stray * STRIDE + 1] == 1


def test_the_range_of_node_ports_is_set() -> None:
    """It widens before a NodePort is marked, and only another agent's start narrows it."""
    marks, settings = Marks(), Settings()
    ours = over(marks, settings)
    anywhere = bytes(4)
    for port, wanted in ((31_000, (31_000, 1)), (30_500, (30_500, 501)), (31_001, (30_500, 502))):
        ours.add(key((anywhere, port)), NODE_PORT)
        assert settings.node_ports == wanted
    ours.remove(key((anywhere, 30_500)))
    assert settings.node_ports == (30_500, 502)
    assert settings.prefixes == 0
    ours.reset([(key((anywhere, 31_000)), NODE_PORT)])
    assert settings.node_ports == (31_000, 1)
    ours.reset([])
    assert settings.node_ports[1] == 0


@pytest.mark.parametrize("kind", [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER])
def test_what_may_leave_the_node_widens_no_setting(kind: Kind) -> None:
    """Packets to an external address may leave as they are: only ClusterIPs must not."""
    settings = Settings()
    ours = over(Marks(), settings)
    ours.reset([])
    ours.add(key(end(1)), FrontendValue(1, kind))
    assert (settings.prefixes, settings.node_ports[1]) == (0, 0)
    # but for those that not everybody may ask (A10.1)
    ours.add(key(end(2)), FrontendValue(1, kind, filtered=True))
    assert settings.prefixes == prefix_bit(end(2)[0])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15))))
@settings(max_examples=30)
def test_marks_are_those_of_the_frontends_there_are(steps: list[tuple[bool, int]]) -> None:
    """Whatever comes and goes in whatever order, the marks are what the frontends need."""
    ends = [*TWINS, *(end(number) for number in range(14))]
    marks = Marks()
    ours, there = over(marks), set[End]()
    for comes, which in steps:
        one = ends[which]
        if comes and one not in there:
            ours.add(key(one), INSIDE)
            there.add(one)
        elif not comes and one in there:
            ours.remove(key(one))
            there.remove(one)
    assert marks.marked() == {endpoint_hash(*one) for one in there}


@given(
    st.integers(0, 128), st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)
)
def test_a_network_has_the_bits_of_all_its_addresses(length: int, net: bytes, other: bytes) -> None:
    """Whatever its length; both families."""
    for size in (4, 16):
        bits = min(length, 8 * size)
        network = masked(net[:size], bits)
        rest = 8 * size - bits
        low = int.from_bytes(other[:size], "big") & ((1 << rest) - 1)
        inside = int.from_bytes(network.address, "big") | low
        assert prefix_bits(network) & prefix_bit(inside.to_bytes(size, "big"))


def test_a_network_has_no_more_bits_than_it_needs() -> None:
    """Or every packet would be looked at."""
    assert prefix_bits(Prefix(bytes((10, 96, 0, 0)), 16)) == prefix_bit(bytes((10, 96, 0, 1)))
    assert prefix_bits(Prefix(bytes((10, 96, 0, 0)), 12)).bit_count() <= 16
    assert prefix_bits(Prefix(bytes(16), 64)).bit_count() == 1

# SPDX-License-Identifier: Apache-2.0
"""Packed records are the records that they were made of, in a fraction of the memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.model import Endpoint, Packed
from pyproxy.tables import Backend, BackendFlag, Member

NAMES = st.sampled_from(["", "node-1", "node-2"])
HINTS = st.sampled_from([frozenset[str](), frozenset({"a"}), frozenset({"a", "b"})])


def endpoints_of(width: int) -> st.SearchStrategy[tuple[Endpoint, ...]]:
    """Return endpoints whose addresses have so many bytes."""
    each = st.builds(
        Endpoint,
        address=st.binary(min_size=width, max_size=width),
        node_name=NAMES,
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        zone_hints=HINTS,
        node_hints=HINTS,
    )
    return st.lists(each, max_size=6).map(tuple)


endpoints = st.sampled_from([4, 16]).flatmap(endpoints_of)


@given(records=endpoints)
def test_what_is_packed_comes_out_again(records: tuple[Endpoint, ...]) -> None:
    """Order, number, members, slices and hash are a tuple's."""
    packed = Packed(Endpoint, records)
    assert tuple(packed) == records
    assert all(isinstance(each, Endpoint) for each in packed)
    assert len(packed) == len(records)
    assert [packed[place] for place in range(len(records))] == list(records)
    assert packed[1:3] == records[1:3]
    assert (hash(packed), repr(packed)) == (hash(records), repr(records))
    assert list(packed) == list(packed)


@given(one=endpoints, other=endpoints)
def test_packed_records_are_equal_when_tuples_are(
    one: tuple[Endpoint, ...], other: tuple[Endpoint, ...]
) -> None:
    """It does not matter which side is packed, or whether both are."""
    for records in (one, other):
        is_same = one == records
        assert (Packed(Endpoint, one) == Packed(Endpoint, records)) is is_same
        assert (Packed(Endpoint, one) == records) is is_same
        assert (one == Packed(Endpoint, records)) is is_same
        assert (Packed(Endpoint, one) != records) is not is_same


@pytest.mark.parametrize("place", range(3))
def test_one_changed_record_makes_a_difference(place: int) -> None:
    """Records that differ in one field of one of them are others."""
    flags = BackendFlag.READY | BackendFlag.SERVING
    records = [Backend(bytes((10, 0, 0, n)), 80, flags, "node-1") for n in range(3)]
    for change in ({"address": b"\1\1\1\1"}, {"port": 81}, {"flags": flags | 8}, {"node": "x"}):
        changed = list(records)
        changed[place] = records[place]._replace(**change)
        assert Packed(Backend, records) != Packed(Backend, changed)


def test_the_number_counts_when_the_bytes_are_the_same() -> None:
    """Four addresses of IPv4 in a row are not one of IPv6."""
    flags = BackendFlag.READY
    four = [Member(b"abcd", 80, flags)] * 4
    assert Packed(Member, four) != Packed(Member, [Member(b"abcd" * 4, 80, flags)])


def test_families_are_not_mixed() -> None:
    """Which bytes belong to which address could not be told."""
    flags = BackendFlag.READY
    with pytest.raises(ValueError, match="two families"):
        Packed(Member, [Member(bytes(4), 80, flags), Member(bytes(16), 80, flags)])


def test_packed_endpoints_take_a_tenth_of_the_memory() -> None:
    """What an agent holds of each endpoint of the cluster, wherever it runs."""
    nodes = [f"node-{number}" for number in range(100)]

    def slice_of(number: int) -> list[Endpoint]:
        places = range(number * 100, number * 100 + 100)
        return [Endpoint(n.to_bytes(4, "big"), nodes[n % 100], True, True, False) for n in places]

    packed = held(lambda: [Packed(Endpoint, slice_of(number)) for number in range(20)])
    assert packed < held(lambda: [tuple(slice_of(number)) for number in range(20)]) / 10


def held(make: Callable[[], object]) -> int:
    """Return how many bytes are allocated for what a function returns."""
    tracemalloc.start()
    try:
        kept = make()
        size, _ = tracemalloc.get_traced_memory()
        del kept
        return size
    finally:
        tracemalloc.stop()

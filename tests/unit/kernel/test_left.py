# SPDX-License-Identifier: Apache-2.0
"""Which backends that left are looked at: those that sockets may ask for, and only so many."""

from __future__ import annotations

from collections import Counter
from unittest.mock import create_autospec

from pyproxy.kernel.left import End, LeftBackends
from pyproxy.kernel.marks import FrontendMarks
from pyproxy.model import Address


class Marks:
    """What is marked."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[Address, int]] = Counter()
        self.whole: set[int] = set()
        self.spec = create_autospec(FrontendMarks, instance=True)
        self.spec.note.side_effect = lambda *end: self.ends.update([end])
        self.spec.forget.side_effect = lambda *end: self.ends.subtract([end])
        self.spec.note_whole.side_effect = self.whole.add
        self.spec.index.side_effect = lambda address, port: address[-1] + port


def used(_: End) -> bool:
    """Some socket has each."""
    return True


def end(number: int) -> tuple[Address, int]:
    """Return a backend."""
    return bytes([10, 1, 0, number]), 53


def test_one_that_left_is_marked_until_it_is_a_backend_again() -> None:
    """Once, however often it left, and what never left is not unmarked."""
    marks = Marks()
    left = LeftBackends(marks.spec, used)
    left.leave([end(1), end(2), end(1)])
    assert +marks.ends == {end(1): 1, end(2): 1}
    left.rejoin([end(1), end(3)])
    assert +marks.ends == {end(2): 1}
    assert len(left) == 1


def test_beyond_the_most_those_go_that_no_socket_has() -> None:
    """However old the others are."""
    marks = Marks()
    left = LeftBackends(marks.spec, {end(1), end(4)}.__contains__, most=3)
    left.leave([end(1), end(2), end(3)])
    left.leave([end(4)])
    assert +marks.ends == {end(1): 1, end(4): 1}


def test_the_oldest_are_forgotten_where_sockets_have_all() -> None:
    """One that left again counts from then on."""
    marks = Marks()
    left = LeftBackends(marks.spec, used, most=2)
    left.leave([end(1), end(2)])
    left.leave([end(1), end(3)])
    assert +marks.ends == {end(1): 1, end(3): 1}
    left.leave([end(4)])
    assert +marks.ends == {end(3): 1, end(4): 1}


def test_room_is_made_for_many_at_once() -> None:
    """All are looked through then: not for each that leaves."""
    marks, asked = Marks(), Counter[End]()

    def is_used(each: End) -> bool:
        asked[each] += 1
        return True

    left = LeftBackends(marks.spec, is_used, most=64)
    for number in range(65):
        left.leave([end(number)])
    assert sum((+marks.ends).values()) == len(left) == 64 - 8 + 1
    left.leave([end(100)])
    assert asked.total() == 64


def test_more_than_the_most_may_leave_at_once() -> None:
    """The last ones count."""
    marks = Marks()
    left = LeftBackends(marks.spec, used, most=2)
    left.leave([end(1)])
    left.leave([end(2), end(3), end(4)])
    assert +marks.ends == {end(3): 1, end(4): 1}
    assert left.take_fresh() == {end(3), end(4)}


def test_a_start_finds_what_the_former_agent_knew() -> None:
    """Backends of sockets that are no members; what is a member is reached as it is."""
    marks = Marks()
    left = LeftBackends(marks.spec, used)
    left.reset(sockets=[54, 55, 55], members=iter([end(1), end(7)]))
    assert marks.whole == {55}


def test_where_no_socket_is_connected_no_member_is_looked_at() -> None:
    """There may be many."""
    left = LeftBackends(Marks().spec, used)
    members = iter([end(1)])
    left.reset(sockets=[], members=members)
    assert next(members) == end(1)


def test_what_has_just_left_is_given_once() -> None:
    """And not what is a backend again by then."""
    left = LeftBackends(Marks().spec, used)
    left.leave([end(1), end(2)])
    left.rejoin([end(2)])
    assert left.take_fresh() == {end(1)}
    assert left.take_fresh() == set()

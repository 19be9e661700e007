# SPDX-License-Identifier: Apache-2.0
"""Which backends that left are looked at: those that sockets may ask for, and only so many."""

from __future__ import annotations

from collections import Counter
from unittest.mock import create_autospec

from pyproxy.kernel.left import Backend, End, LeftBackends
from pyproxy.kernel.marks import FrontendMarks
from pyproxy.model import Address


class Marks:
    """What is marked."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[Address, int]] = Counter()
        self.spec = create_autospec(FrontendMarks, instance=True)
        self.spec.note.side_effect = lambda *end: self.ends.update([end])
        self.spec.forget.side_effect = lambda *end: self.ends.subtract([end])


def used(_: End) -> bool:
    """Some socket has each."""
    return True


def end(number: int) -> End:
    """Return a backend's address and port."""
    return bytes([10, 1, 0, number]), 53


def of(number: int, service: int = 1) -> Backend:
    """Return it as a service's."""
    return service, *end(number)


def test_one_that_left_is_marked_until_it_is_a_backend_again() -> None:
    """Once, however often it left, and what never left is not unmarked."""
    marks = Marks()
    left = LeftBackends(marks.spec, used)
    left.leave([of(1), of(2), of(1)])
    assert +marks.ends == {end(1): 1, end(2): 1}
    left.rejoin([of(1), of(3)])
    assert +marks.ends == {end(2): 1}
    assert len(left) == 1


def test_beyond_the_most_those_go_that_no_socket_has() -> None:
    """However old the others are."""
    marks = Marks()
    left = LeftBackends(marks.spec, {end(1), end(4)}.__contains__, most=3)
    left.leave([of(1), of(2), of(3)])
    left.leave([of(4)])
    assert +marks.ends == {end(1): 1, end(4): 1}


def test_the_oldest_are_forgotten_where_sockets_have_all() -> None:
    """One that left again counts from then on."""
    marks = Marks()
    left = LeftBackends(marks.spec, used, most=2)
    left.leave([of(1), of(2)])
    left.leave([of(1), of(3)])
    assert +marks.ends == {end(1): 1, end(3): 1}
    left.leave([of(4)])
    assert +marks.ends == {end(3): 1, end(4): 1}


def test_room_is_made_for_many_at_once() -> None:
    """All are looked through then: not for each that leaves."""
    marks, asked = Marks(), Counter[End]()

    def is_used(each: End) -> bool:
        asked[each] += 1
        return True

    left = LeftBackends(marks.spec, is_used, most=64)
    for number in range(65):
        left.leave([of(number)])
    assert sum((+marks.ends).values()) == len(left) == 64 - 8 + 1
    left.leave([of(100)])
    assert asked.total() == 64


def test_more_than_the_most_may_leave_at_once() -> None:
    """The last ones count."""
    marks = Marks()
    left = LeftBackends(marks.spec, used, most=2)
    left.leave([of(1)])
    left.leave([of(2), of(3), of(4)])
    assert +marks.ends == {end(3): 1, end(4): 1}
    assert left.take_fresh() == {end(3), end(4)}


def test_another_services_backend_has_left_its_own() -> None:
    """Only its own service has it back."""
    marks = Marks()
    left = LeftBackends(marks.spec, used)
    left.leave([of(1)])
    left.rejoin([of(1, service=2)])
    assert +marks.ends == {end(1): 1}
    assert left.take_fresh() == {end(1)}
    left.rejoin([of(1)])
    assert +marks.ends == {}


def test_a_start_finds_what_the_former_agent_knew() -> None:
    """The former agent has told the node's sockets already; what it noted is forgotten."""
    marks = Marks()
    left = LeftBackends(marks.spec, used)
    left.leave([of(1)])
    left.reset([of(2), of(3)])
    assert len(left) == 2
    assert left.take_fresh() == set()
    left.rejoin([of(3)])
    assert +marks.ends == {end(1): 1, end(2): 1}


def test_what_has_just_left_is_given_once() -> None:
    """And not what is a backend again by then."""
    left = LeftBackends(Marks().spec, used)
    left.leave([of(1), of(2)])
    left.rejoin([of(2)])
    assert left.take_fresh() == {end(1)}
    assert left.take_fresh() == set()

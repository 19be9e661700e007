# SPDX-License-Identifier: Apache-2.0
"""Differences only, in an order that readers can bear, whatever fails."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.errors import KernelError
from pyproxy.model import ServicePortName
from pyproxy.sync.api import Room, Snapshot
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import Frontend, Kind, PortPlan, ServiceFlag
from tests.unit.sync.fake import ROOM, FakeDatapath
from tests.unit.sync.plans import backend, plan

Plans = dict[ServicePortName, PortPlan | None]


def serves(_: PortPlan, frontend: Frontend) -> bool:
    """Serve all but NodePorts."""
    return frontend.kind is not Kind.NODE_PORT


def plans(*wanted: PortPlan) -> Plans:
    """Return plans by name."""
    return {each.name: each for each in wanted}


def contents(datapath: FakeDatapath) -> dict[ServicePortName, object]:
    """Return what the maps say of each service port, without ids, slots and generations."""
    snapshot: Snapshot = datapath.read()
    return {
        named.name: (
            {
                (key, value.kind, value.filtered)
                for key, value in snapshot.frontends.items()
                if value.service == service
            },
            set(snapshot.sources.get(service, ())),
            snapshot.runs[service].header,
            [
                (b.address, b.port, b.flags, snapshot.nodes.get(b.node))
                for b in snapshot.runs[service].backends
            ],
            set(snapshot.members.get(service, ())),
        )
        for service, named in snapshot.names.items()
    }


def fresh(wanted: Plans) -> dict[ServicePortName, object]:
    """Return the contents of new maps after one sync of everything."""
    datapath = FakeDatapath()
    Syncer(datapath, serves).apply(wanted)
    return contents(datapath)


def test_nothing_is_written_for_what_is_there() -> None:
    """A second syncer adopts what the first one wrote, ids and slots included."""
    datapath = FakeDatapath()
    wanted = plans(plan("a"), plan("b", vips=(2, 3), backends=(backend(1), backend(2))))
    Syncer(datapath, serves).apply(wanted)
    writes = datapath.writes
    assert Syncer(datapath, serves).apply(wanted) == 0
    assert datapath.writes == writes


def test_what_is_gone_when_the_agent_starts_is_removed() -> None:
    """A service that was deleted while no agent ran goes at the first sync."""
    datapath = FakeDatapath()
    Syncer(datapath, serves).apply(plans(plan("a"), plan("b", vips=(2,))))
    Syncer(datapath, serves).apply(plans(plan("b", vips=(2,))))
    assert contents(datapath) == fresh(plans(plan("b", vips=(2,))))


def test_what_may_only_be_unreadable_is_kept_until_the_sources_are_whole() -> None:
    """A new agent removes nothing of the former one's while a source is incomplete."""
    datapath = FakeDatapath()
    everything = plans(plan("a"), plan("b", vips=(2,)), plan("c", vips=(3,)))
    Syncer(datapath, serves).apply(everything)
    syncer = Syncer(datapath, serves)
    changed = plan("b", vips=(2,), backends=(backend(9),))
    syncer.apply(plans(changed), anything)
    assert syncer.kept == {plan("a").name, plan("c").name}
    assert contents(datapath) == fresh(everything | plans(changed))
    syncer.apply(plans(plan("c", vips=(3,))), anything)
    assert syncer.kept == {plan("a").name}
    syncer.apply({})
    assert syncer.kept == set()
    assert contents(datapath) == fresh(plans(changed, plan("c", vips=(3,))))


def test_older_connections_know_services_by_their_ids() -> None:
    """An agent of another layout has numbered them; who is new gets none of those numbers."""
    datapath = FakeDatapath()
    datapath.former = {plan("a").name: 3, plan("b").name: 2, plan("gone").name: 4}
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("new", vips=(3,)), plan("b", vips=(2,)), plan("a")))
    ids = {name.name: entry.service for name, entry in syncer.books.programmed.items()}
    assert ids == {"a": 3, "b": 2, "new": 5}
    generations = {entry.run.generation for entry in syncer.books.programmed.values()}
    assert len(generations) == 1
    assert generations != {1}, "older connections may have met that one"


def anything(_: ServicePortName) -> bool:
    """Say that any service port may be missing from the sources."""
    return True


def test_only_what_may_be_unreadable_is_kept() -> None:
    """One malformed object is no reason to serve what was deleted."""
    datapath = FakeDatapath()
    Syncer(datapath, serves).apply(plans(plan("a"), plan("b", vips=(2,))))
    syncer = Syncer(datapath, serves)
    syncer.apply({}, lambda name: name == plan("a").name)
    assert syncer.kept == {plan("a").name}
    assert contents(datapath) == fresh(plans(plan("a")))


def test_what_was_wanted_once_is_not_kept() -> None:
    """Its deletion may fail at first; it is for certain all the same."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a"), plan("b", vips=(2,))), anything)
    datapath.fail_at = datapath.writes + 1
    with pytest.raises(KernelError):
        syncer.apply({plan("a").name: None}, anything)
    datapath.fail_at = 0
    syncer.apply({}, anything)
    assert syncer.kept == set()
    assert contents(datapath) == fresh(plans(plan("b", vips=(2,))))


def test_a_change_of_backends_is_one_publication() -> None:
    """New backends are written to other slots and take effect by a single store."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a")))
    datapath.log.clear()
    syncer.apply(plans(plan("a", backends=(backend(2), backend(3)))))
    assert datapath.log == ["-member", "member", "member", "run", "publish"]


def test_a_member_that_goes_makes_a_new_generation() -> None:
    """UDP asks for its backend again only then: a terminating one may go without the others."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a", leaving=(backend(9),))))
    datapath.log.clear()
    syncer.apply(plans(plan("a")))
    assert datapath.log == ["-member", "run", "publish"]


def test_replaced_slots_wait_for_their_readers() -> None:
    """Slots of a replaced run are not handed out before the readers were waited for."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a")))
    first = datapath.services[1][0]
    syncer.apply(plans(plan("a", backends=(backend(2),))))
    assert syncer.has_limbo
    used = syncer.books.slots.used
    waits = datapath.waits
    syncer.reclaim()
    assert datapath.waits == waits + 1
    assert syncer.books.slots.used == used - 2
    assert datapath.services[1][0] != first


def test_an_id_that_others_had_is_counted_from_zero() -> None:
    """Counters of an id begin anew where it is given to another service, and only there."""
    datapath = FakeDatapath(ROOM._replace(services=3))
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a"), plan("b", vips=[2])))
    syncer.apply(plans(plan("a", backends=[backend(2)])))
    assert datapath.forgotten == []
    (b,) = (n for n, named in datapath.read().names.items() if named.name.name == "b")
    syncer.apply({plan("b").name: None})
    syncer.reclaim()
    syncer.apply(plans(plan("c", vips=[3])))
    assert datapath.forgotten == [b]


def test_a_frontend_moves_between_services_without_a_gap() -> None:
    """A ClusterIP that another service takes over is never missing from the map."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a", vips=(1,)), plan("b", vips=(2,))))
    key = next(k for k, v in datapath.frontends.items() if v.service == 1)

    def is_there() -> None:
        assert key in datapath.frontends

    datapath.check = is_there
    gone: Plans = {plan("a").name: None}
    syncer.apply(gone | plans(plan("b", vips=(1, 2))))
    assert len(datapath.frontends) == 2


@pytest.mark.parametrize(
    ("room", "word"),
    [
        (ROOM._replace(frontends=2), "frontends"),
        (ROOM._replace(services=3), "services"),
        (ROOM._replace(slots=8), "slots"),
        (ROOM._replace(members=2), "members"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_the_rest_works(room: Room, word: str) -> None:
    """A full map refuses the youngest, says which map, and serves it once there is room."""
    datapath = FakeDatapath(room)
    syncer = Syncer(datapath, serves)
    old = [plan("a", created="2020"), plan("b", vips=(2,), created="2021")]
    late = plan("c", vips=(3,), created="2022", backends=(backend(1), backend(2), backend(3)))
    syncer.apply(plans(*old, late))
    assert word in syncer.refused[late.name]
    assert contents(datapath) == fresh(plans(*old))
    small = plan("c", vips=(3,), created="2022")
    syncer.apply({old[0].name: None, **plans(small)})
    syncer.reclaim()
    syncer.apply({})
    assert syncer.refused == {}
    assert contents(datapath) == fresh(plans(old[1], small))


def test_a_service_that_grows_too_large_keeps_what_it_had() -> None:
    """A refused change leaves the old backends in force."""
    datapath = FakeDatapath(ROOM._replace(members=3))
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a")))
    before = contents(datapath)
    syncer.apply(plans(plan("a", backends=tuple(backend(n) for n in range(1, 9)))))
    assert list(syncer.refused) == [plan("a").name]
    assert contents(datapath) == before


@pytest.mark.parametrize("restarted", [True, False])
def test_a_frontend_that_was_not_closed_in_time_is_closed(*, restarted: bool) -> None:
    """The ranges were written, and the write that makes them count failed."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a", balanced=(1,))))
    closed = plan("a", balanced=(1,), sources=(1,))
    datapath.fail_at = datapath.writes + 2
    with pytest.raises(KernelError):
        syncer.apply(plans(closed))
    assert len(datapath.sources) == 1
    datapath.fail_at = 0
    (Syncer(datapath, serves) if restarted else syncer).apply(plans(closed) if restarted else {})
    assert contents(datapath) == fresh(plans(closed))


def test_nobody_slips_in_before_a_frontend_is_closed() -> None:
    """With the first endpoint come the ranges: whom they keep out never sees it (A8.8)."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a", balanced=(1,), backends=())))
    datapath.log.clear()
    syncer.apply(plans(plan("a", balanced=(1,), sources=(1,))))
    assert datapath.log.index("frontend") < datapath.log.index("publish")
    datapath.log.clear()
    syncer.apply(plans(plan("a", balanced=(1,), backends=())))
    assert datapath.log.index("publish") < datapath.log.index("frontend")


def test_sources_that_are_there_take_no_room_twice() -> None:
    """Endpoints change while the ranges stay."""
    datapath = FakeDatapath(ROOM._replace(sources=3))
    syncer = Syncer(datapath, serves)
    syncer.apply(plans(plan("a", balanced=(1,), sources=(1, 2))))
    changed = plan("a", balanced=(1,), sources=(1, 2), backends=(backend(7),))
    syncer.apply(plans(changed))
    assert syncer.refused == {}
    assert contents(datapath) == fresh(plans(changed))


def test_too_many_sources_are_refused_by_name() -> None:
    """A service keeps those it had; nobody else goes without."""
    datapath = FakeDatapath(ROOM._replace(sources=3))
    syncer = Syncer(datapath, serves)
    first = plan("a", balanced=(1,), sources=(1, 2))
    syncer.apply(plans(first))
    before = contents(datapath)
    syncer.apply(plans(plan("a", balanced=(1,), sources=(1, 2, 3, 4))))
    assert syncer.refused == {first.name: "the map sources is full (2 of 3 used)"}
    assert contents(datapath) == before


names = st.sampled_from("abcd")
backends = st.lists(
    st.builds(backend, st.integers(1, 6), node=st.sampled_from(["", "node1", "node2"])),
    max_size=4,
    unique_by=lambda b: b.address,
)
flags = st.sampled_from([ServiceFlag(0), ServiceFlag.HAS_ENDPOINTS, ServiceFlag(5)])


@st.composite
def steps(draw: st.DrawFn) -> list[Plans]:
    """Draw rounds of changes; each name has frontends of its own, so that none clash."""
    rounds: list[Plans] = []
    for _ in range(draw(st.integers(1, 6))):
        changes: Plans = {}
        for name in draw(st.sets(names, min_size=1)):
            vip = 10 * ord(name) % 200
            made = plan(
                name,
                vips=draw(st.sampled_from([(vip,), (vip, vip + 1)])),
                backends=draw(backends),
                flags=draw(flags),
                balanced=draw(st.sampled_from([(), (vip,)])),
                sources=draw(st.sets(st.integers(1, 4), max_size=3)),
            )
            changes[made.name] = draw(st.sampled_from([made, None]))
        rounds.append(changes)
    return rounds


def wanted_after(rounds: list[Plans]) -> Plans:
    """Return what is wanted after all rounds."""
    merged: Plans = {}
    for changes in rounds:
        merged |= changes
    return {name: each for name, each in merged.items() if each}


@given(steps())
@settings(max_examples=80)
def test_any_order_of_changes_gives_the_same_maps(rounds: list[Plans]) -> None:
    """The maps depend on what is wanted now, not on how it came to be."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    for changes in rounds:
        syncer.apply(changes)
    assert contents(datapath) == fresh(wanted_after(rounds))
    syncer.apply(dict.fromkeys(wanted_after(rounds)))
    assert datapath.is_empty()


@given(steps(), st.integers(1, 60))
@settings(max_examples=120)
def test_a_write_that_fails_anywhere_is_made_good(rounds: list[Plans], fail_at: int) -> None:
    """After a failed write the next round reads the kernel back and nothing is lost or left."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    datapath.fail_at = fail_at
    for changes in rounds:
        try:
            syncer.apply(changes)
        except KernelError:
            syncer.apply({})
    datapath.fail_at = 0
    assert contents(datapath) == fresh(wanted_after(rounds))
    syncer.apply(dict.fromkeys(wanted_after(rounds)))
    assert datapath.is_empty()


@given(steps())
@settings(max_examples=60)
def test_a_reader_never_meets_anything_half_done(rounds: list[Plans]) -> None:
    """After each single write, every frontend leads to a published run that is its service's."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)

    def reader() -> None:
        for value in datapath.frontends.values():
            first, generation = datapath.services[value.service]
            owner, run = datapath.runs[first]
            assert (owner, run.generation) == (value.service, generation)
            # nor one that is to be asked by some, and by nobody for now
            assert not value.filtered or any(s == value.service for s, _ in datapath.sources)

    datapath.check = reader
    for changes in rounds:
        syncer.apply(changes)

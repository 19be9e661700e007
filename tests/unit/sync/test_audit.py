# SPDX-License-Identifier: Apache-2.0
"""What somebody else deletes or changes is written again; nothing else is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import KernelError
from pyproxy.model import Prefix
from pyproxy.sync.api import FrontendValue, Run
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import FrontendKey, Kind, Member
from tests.unit.sync.fake import ROOM, FakeDatapath
from tests.unit.sync.plans import address, backend, plan
from tests.unit.sync.test_syncer import contents, plans, serves

FOREIGN = FrontendKey(bytes((1, 2, 3, 4)), 80, 6)
EVERYTHING = plans(
    plan("a", backends=(backend(1), backend(2, node="node2"))),
    plan("b", vips=(2, 3), balanced=(4,), sources=(7, 8)),
    plan("c", vips=(5,), backends=()),
)


def programmed() -> tuple[Syncer, FakeDatapath]:
    """Return maps that a syncer has filled."""
    datapath = FakeDatapath()
    syncer = Syncer(datapath, serves)
    syncer.apply(EVERYTHING)
    return syncer, datapath


def audited(syncer: Syncer) -> Counter[str]:
    """Look at everything; return how many entries of which map were mended."""
    found: Counter[str] = Counter()
    for mended in syncer.audit():
        found.update(mended)
    return found


EXTRA_SOURCE = (2, Prefix(bytes(4), 0))


def _delete_frontend(maps: FakeDatapath) -> None:
    maps.frontends.pop(next(iter(maps.frontends)))


def _lead_elsewhere(maps: FakeDatapath) -> None:
    maps.frontends[next(iter(maps.frontends))] = FrontendValue(3, Kind.CLUSTER_IP)


def _add_frontend(maps: FakeDatapath) -> None:
    maps.frontends[FOREIGN] = FrontendValue(1, Kind.CLUSTER_IP)


def _withdraw(maps: FakeDatapath) -> None:
    maps.services[1] = (0, 0)


def _change_slots(maps: FakeDatapath) -> None:
    first, _ = maps.services[1]
    if first not in maps.runs:
        return  # withdrawn by other harm
    service, run = maps.runs[first]
    maps.runs[first] = (service, run._replace(backends=run.backends[1:]))


def _delete_member(maps: FakeDatapath) -> None:
    maps.members.pop(next(iter(maps.members)))


def _add_member(maps: FakeDatapath) -> None:
    maps.members[9, address(9), 80] = Member(address(9), 80, backend(9).flags)


def _delete_name(maps: FakeDatapath) -> None:
    maps.names.pop(1, None)


def _add_name(maps: FakeDatapath) -> None:
    maps.names[60] = maps.names[2]


def _swap_nodes(maps: FakeDatapath) -> None:
    maps.nodes[1], maps.nodes[2] = maps.nodes[2], maps.nodes[1]


def _delete_source(maps: FakeDatapath) -> None:
    # not the one that other harm may have added: they would undo each other
    maps.sources.remove(min(maps.sources - {EXTRA_SOURCE}))


def _add_source(maps: FakeDatapath) -> None:
    maps.sources.add(EXTRA_SOURCE)


def _clear_marks(maps: FakeDatapath) -> None:
    maps.wrong_marks = 3


HARM: dict[Callable[[FakeDatapath], None], dict[str, int]] = {
    _delete_frontend: {"frontends": 1},
    _lead_elsewhere: {"frontends": 1},
    _add_frontend: {"frontends": 1},
    _withdraw: {"services": 1},
    _change_slots: {"services": 1},
    _delete_member: {"members": 1},
    _add_member: {"members": 1},
    _delete_name: {"service_names": 1},
    _add_name: {"service_names": 1},
    _swap_nodes: {"node_names": 2},
    _delete_source: {"sources": 1},
    _add_source: {"sources": 1},
    _clear_marks: {"marks": 3},
}


def _undisturbed(maps: FakeDatapath) -> dict[int, Run]:
    """Return the runs of the services that no harm is done to."""
    return {service: run for service, run in maps.read().runs.items() if service != 1}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__.strip("_"))
def test_harm_is_named_and_mended(harm: Callable[[FakeDatapath], None]) -> None:
    """All is as it was, in one entry's writes; whoever works keeps id, slots and generation."""
    syncer, maps = programmed()
    before, others = contents(maps), _undisturbed(maps)
    harm(maps)
    assert audited(syncer) == HARM[harm]
    assert (contents(maps), _undisturbed(maps)) == (before, others)
    assert audited(syncer) == {}
    assert not syncer.apply({})


@given(st.lists(st.sampled_from(list(HARM)), min_size=1, max_size=6, unique=True))
def test_any_harm_is_mended(harms: list[Callable[[FakeDatapath], None]]) -> None:
    """Several things at once, too."""
    syncer, maps = programmed()
    before = contents(maps)
    for harm in harms:
        harm(maps)
    assert audited(syncer)
    assert contents(maps) == before
    assert audited(syncer) == {}
    syncer.apply(dict.fromkeys(EVERYTHING))
    syncer.reclaim()
    assert maps.is_empty()


def test_a_look_at_what_is_right_writes_nothing() -> None:
    """Not even what is there already."""
    syncer, maps = programmed()
    writes = maps.writes
    assert audited(syncer) == {}
    assert maps.writes == writes


def test_slots_that_were_changed_where_there_is_no_room() -> None:
    """They are written in place, and nobody reads them meanwhile."""
    maps = FakeDatapath(ROOM._replace(slots=4))
    syncer = Syncer(maps, serves)
    syncer.apply(plans(plan("a", backends=(backend(1),))))
    before = contents(maps)
    _change_slots(maps)
    assert audited(syncer) == {"services": 1}
    assert contents(maps) == before


def test_changes_may_come_between_the_steps() -> None:
    """What is wanted then counts; nothing of the old is written again."""
    syncer, maps = programmed()
    steps = syncer.audit()
    next(steps)
    gone = {plan("a").name: None}
    syncer.apply(gone)
    for _ in steps:
        pass
    assert plan("a").name not in contents(maps)
    assert audited(syncer) == {}


def test_a_look_ends_where_the_kernel_has_to_be_read_anyway() -> None:
    """After a failed write the next apply() compares everything."""
    syncer, maps = programmed()
    steps = syncer.audit()
    next(steps)
    maps.fail_at = maps.writes + 1
    with pytest.raises(KernelError):
        syncer.apply({plan("a").name: None})
    assert list(steps) == [{}]


def test_a_mending_that_fails_is_made_good_by_the_next_apply() -> None:
    """The books may not be what the kernel has, so it is read back."""
    syncer, maps = programmed()
    before = contents(maps)
    _delete_frontend(maps)
    maps.fail_at = maps.writes + 1
    with pytest.raises(KernelError):
        audited(syncer)
    syncer.apply({})
    assert contents(maps) == before

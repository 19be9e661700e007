# SPDX-License-Identifier: Apache-2.0
"""What somebody changes in our maps is seen, to the byte, and written as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pyproxy.kernel.addresses import DeviceFacts
from pyproxy.kernel.packetpath import SETTINGS
from pyproxy.kube.addresses import parse_prefix
from pyproxy.model import Family
from pyproxy.plan.options import Options
from pyproxy.tables import PortPlan
from tests.datapath.flavours import Flavour
from tests.datapath.node import Loaded, Node
from tests.datapath.services import service

CIDRS = {Family.IPV4: "10.1.0.0/16", Family.IPV6: "fd00:1::/64"}


def plans(family: Family) -> list[PortPlan]:
    """Return two services."""
    return [service(family, 1, [1, 2, 3]), service(family, 2, [4], leaving=[5])]


def audited(node: Node, family: Family) -> Counter[str]:
    """Look at a family's maps; return how many entries of which were mended."""
    found: Counter[str] = Counter()
    for mended in node.syncers[family].audit():
        found.update(mended)
    return found


def _flip(pack: bytes, at: int) -> bytes:
    return bytes((*pack[:at], pack[at] ^ 1, *pack[at + 1 :]))


def _frontend_of_other_flags(loaded: Loaded) -> None:
    frontends = loaded.datapath.frontends
    key, value = frontends.items()[0]
    frontends.update([(key, (*value[:-1], value[-1] ^ 0x80))])


def _frontend_of_other_key(loaded: Loaded) -> None:
    """The value repeats its key: with another one every look-up is refused."""
    frontends = loaded.datapath.frontends
    key, value = frontends.items()[0]
    frontends.update([(key, (value[0], value[1] ^ 1, *value[2:]))])


def _last_byte_of_a_slot(loaded: Loaded) -> None:
    first, _ = loaded.datapath.published(min(loaded.datapath.read_names()))
    slots = loaded.datapath.slots
    slots.write(first + 2, _flip(slots.read(first + 2), slots.stride - 1))


def _member_of_other_flags(loaded: Loaded) -> None:
    members = loaded.datapath.members
    key, (flags,) = members.items()[0]
    members.update([(key, (flags ^ 1,))])


def _marks(loaded: Loaded) -> None:
    loaded.datapath.marks.clear_bytes(loaded.datapath.marks.layout["frontend"].offset)


HARM: dict[Callable[[Loaded], None], dict[str, int]] = {
    _frontend_of_other_flags: {"frontends": 1},
    _frontend_of_other_key: {"frontends": 1},
    _last_byte_of_a_slot: {"services": 1},
    _member_of_other_flags: {"members": 1},
    _marks: {"marks": 2},
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__.strip("_"))
def test_changed_maps_are_mended(
    node: Node, family: Family, harm: Callable[[Loaded], None]
) -> None:
    """One entry is enough to be seen; then all is as it was."""
    node.apply(*plans(family))
    before = node.loaded[family].datapath.read()
    harm(node.loaded[family])
    assert audited(node, family) == HARM[harm]
    after = node.loaded[family].datapath.read()
    assert after._replace(runs={}) == before._replace(runs={})
    for number, run in after.runs.items():
        assert (run.header, run.backends) == (
            before.runs[number].header,
            before.runs[number].backends,
        )
    assert audited(node, family) == {}


def test_what_is_right_is_left_alone(node: Node, flavour: Flavour) -> None:
    """Not a byte differs from what the syncer has written."""
    node.apply(*plans(flavour.family))
    assert audited(node, flavour.family) == {}
    node.remove(plans(flavour.family)[0])
    assert audited(node, flavour.family) == {}


@pytest.fixture
def told(node: Node, family: Family) -> Iterator[Loaded]:
    """A family whose packet path knows the pods' addresses."""
    options = Options("here", local_cidrs=(parse_prefix(CIDRS[family]),))
    node.configure(options=options)
    yield node.loaded[family]
    node.configure()


def test_changed_settings_are_mended(told: Loaded) -> None:
    """Each by its name, the pods' addresses among them."""
    assert told.path.mend() == []
    settings = told.datapath.settings
    before = settings.read(0, len(SETTINGS))
    for name in ("policy", "udp"):
        settings.store(SETTINGS.index(name), 1 << 40)
    told.path._cidrs.delete(key for key, _ in told.path._cidrs.items())
    assert told.path.mend() == ["policy", "udp", "local_cidrs"]
    assert settings.read(0, len(SETTINGS)) == before
    assert told.path.mend() == []


def test_changed_facts_are_told_of(told: Loaded) -> None:
    """Others than those that were written last; the first ones may be a former agent's."""
    path = told.path
    facts = {2: DeviceFacts(bytes(told.pins.family.address_bytes), 1)}
    path.write_devices(facts)
    assert not path.write_devices(facts)
    path._devices.delete([(2,)])
    assert path.write_devices(facts)
    assert not path.write_devices({})

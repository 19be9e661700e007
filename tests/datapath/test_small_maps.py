# SPDX-License-Identifier: Apache-2.0
"""Maps that are really full."""

from __future__ import annotations

import pytest

from pyproxy.errors import MapFullError
from pyproxy.model import Family, Protocol
from pyproxy.sync.api import FrontendValue
from pyproxy.tables import FrontendKey, Kind, Member
from tests.datapath.asking import Answer, ask_connected, draw
from tests.datapath.faults import contents, wanted
from tests.datapath.flavours import PORT, Flavour, named, service_address
from tests.datapath.node import SMALL, Node
from tests.datapath.services import USABLE, service


def test_a_full_hash_map_is_told_and_keeps_what_it_has(small: Node, family: Family) -> None:
    """What doesn't fit raises MapFullError; what was there before is untouched."""
    datapath = small.loaded[family].datapath
    frontends = [
        (FrontendKey(service_address(family, n), 80, 6), FrontendValue(n, Kind.CLUSTER_IP))
        for n in range(1, SMALL.max_frontends + 2)
    ]
    members = [(1, Member(service_address(family, n), 80, USABLE)) for n in range(1, 9)]
    datapath.put_frontends(frontends[:-1])
    with pytest.raises(MapFullError, match="full"):
        datapath.put_frontends(frontends[-1:])
    with pytest.raises(MapFullError):
        datapath.put_members(members)
    now = datapath.read()
    assert now.frontends == dict(frontends[:-1])
    assert len(now.members[1]) == SMALL.max_members
    datapath.delete_frontends([key for key, _ in frontends])
    datapath.delete_members(members)


def test_services_that_do_not_fit_are_refused_by_name(small: Node, family: Family) -> None:
    """More services than there is room for: the others work; room that is made is used."""
    plans = [service(family, n, [n]) for n in range(1, SMALL.max_frontends + 2)]
    syncer = small.syncers[family]
    syncer.apply({plan.name: plan for plan in plans})
    refused = plans[-1]
    assert list(syncer.refused) == [refused.name]
    assert "frontends is full" in syncer.refused[refused.name]
    datapath = small.loaded[family].datapath
    assert contents(datapath) == {plan.name: wanted(plan) for plan in plans[:-1]}
    syncer.apply({plans[0].name: None})
    syncer.reclaim()
    syncer.apply({})
    assert syncer.refused == {}
    assert contents(datapath) == {plan.name: wanted(plan) for plan in plans[1:]}


@pytest.mark.parametrize("backends", [range(1, 8), range(1, 7)], ids=["members", "slots"])
def test_a_change_that_does_not_fit_leaves_the_old_backends(
    small: Node, flavour: Flavour, backends: range
) -> None:
    """A service whose new backends have no room keeps those it had, and is named."""
    had = service(flavour.family, 1, [1])
    more = service(flavour.family, 2, [7, 8, 6][: 3 if len(backends) < 7 else 1])
    small.apply(had, more)
    small.apply(service(flavour.family, 1, backends))
    assert list(small.syncers[flavour.family].refused) == [had.name]
    to = flavour.service(1)
    assert draw(flavour, Protocol.TCP, to, small.make_socket) == Answer(1, PORT)


def test_more_connected_sockets_than_the_map_holds(
    small: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """Sockets beyond the map of connected ones have the right names too, and end as well."""
    small.apply(service(flavour.family, 1, [3], protocol=protocol))
    to = flavour.service(1)
    socks = [small.socket(flavour, protocol) for _ in range(3 * SMALL.max_connected)]
    for sock in socks:
        sock.connect(to)
    assert small.remembered() == SMALL.max_connected
    for sock in socks:
        assert named(sock.getpeername()) == to
        assert ask_connected(sock) == (Answer(3, PORT), to)
    for sock in socks:
        sock.close()
    assert small.remembered() == 0
    with small.socket(flavour, protocol) as sock:
        sock.connect(flavour.backend(3))
        assert named(sock.getpeername()) == flavour.backend(3)

# SPDX-License-Identifier: Apache-2.0
"""Which endpoints count, told a second time from the parity rows, for any slices at all."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.model import Endpoint, EndpointSlice, Family, ObjectName, Protocol, Service, SlicePort
from pyproxy.plan.build import plan_service
from pyproxy.plan.options import Options
from pyproxy.tables import Backend, BackendFlag, Member, ServiceFlag
from tests.unit.plan.records import HTTP, NODE, addresses, options, service

End = tuple[bytes, int]
ZONE = "zone-a"
PORTS = [
    SlicePort("http", Protocol.TCP, 8080),
    SlicePort("http", Protocol.TCP, 8081),
    SlicePort("http", Protocol.UDP, 8080),
    SlicePort("", Protocol.TCP, 8080),
]
some_hints = st.sampled_from([(), (), (ZONE,), (NODE,), ("else",), ("else", ZONE), ("else", NODE)])
endpoints = st.builds(
    Endpoint,
    st.sampled_from(addresses("10.0.0.1", "10.0.0.2", "10.0.0.10", "192.168.0.2")),
    st.sampled_from(["", NODE, "node-2"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    some_hints.map(frozenset),
    some_hints.map(frozenset),
)
slices = st.lists(
    st.builds(
        EndpointSlice,
        st.sampled_from([ObjectName("ns", name) for name in "abc"]),
        st.just(ObjectName("ns", "web")),
        st.sampled_from([Family.IPV4, Family.IPV4, Family.IPV6]),
        st.lists(st.sampled_from(PORTS), max_size=3, unique=True).map(tuple),
        st.lists(endpoints, max_size=5).map(tuple),
    ).map(lambda piece: piece if piece.family is Family.IPV4 else piece._replace(endpoints=())),
    max_size=4,
)
services = st.builds(
    lambda internal, external, exposed, kind: service(
        external=["8.8.8.8"] if exposed else [],
        type=kind,
        internal_policy_local=internal,
        external_policy_local=external,
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ClusterIP", "LoadBalancer"]),
)


class Sets(NamedTuple):
    """What the rows say: who is used by which policy, and whether anybody could be."""

    cluster: AbstractSet[End]
    local: AbstractSet[End]
    has_endpoints: bool


def last_word(pieces: Iterable[EndpointSlice]) -> dict[End, Endpoint]:
    """A1.7, A1.12: each address and number once; who terminates takes nobody's place."""
    said: dict[End, list[Endpoint]] = {}
    for piece in pieces:
        numbers = [p.port for p in piece.ports if (p.name, p.protocol) == ("http", Protocol.TCP)]
        for number in numbers:
            for each in piece.endpoints:
                said.setdefault((each.address, number), []).append(each)
    return {
        end: next((each for each in reversed(all_) if not each.terminating), all_[0])
        for end, all_ in said.items()
    }


def near(ready: dict[End, Endpoint], chosen: Options) -> set[End]:
    """A5.2: by node if all say nodes and one ours, else so by zone, else everybody."""
    kinds = [("node_hints", chosen.node_name), ("zone_hints", chosen.zone)]
    for field, mine in kinds:
        hints = {end: getattr(each, field) for end, each in ready.items()}
        meant = {end for end, names in hints.items() if mine and mine in names}
        if meant and all(hints.values()):
            return meant
    return set(ready)


def told_again(item: Service, pieces: Iterable[EndpointSlice], chosen: Options) -> Sets:
    """A4.1, A4.2, A4.5, A4.6, A5.4: both sets, each with a fall-back of its own."""
    known = last_word(pieces)
    ready = {end: each for end, each in known.items() if each.ready}
    leaving = {e for e, each in known.items() if not each.ready and each.serving}
    leaving = {end for end in leaving if known[end].terminating}
    here = {end for end, each in known.items() if each.node_name == NODE}
    exposed = bool(item.external_ips)
    uses_cluster = exposed or not item.internal_policy_local
    uses_local = item.internal_policy_local or (exposed and item.external_policy_local)
    return Sets(
        cluster=(near(ready, chosen) or leaving) if uses_cluster else set(),
        local=(ready.keys() & here or leaving & here) if uses_local else set(),
        has_endpoints=bool(ready or leaving),
    )


def ends(found: Iterable[Backend | Member]) -> set[End]:
    """Return addresses and ports."""
    return {(each.address, each.port) for each in found}


@given(item=services, pieces=slices, zone=st.sampled_from(["", ZONE, "zone-b"]))
def test_plans_have_the_endpoints_that_the_rows_say(
    item: Service, pieces: list[EndpointSlice], zone: str
) -> None:
    """Sets, whether anybody could be used, who may keep connections, and who is of this node."""
    chosen = options(zone=zone)
    (plan,) = plan_service(item, pieces, chosen)
    wanted = told_again(item, [p for p in pieces if p.family is Family.IPV4], chosen)
    assert ends(plan.cluster) == wanted.cluster
    assert ends(plan.local) == wanted.local
    assert bool(plan.flags & ServiceFlag.HAS_ENDPOINTS) is wanted.has_endpoints
    known = last_word(p for p in pieces if p.family is Family.IPV4)
    assert ends(plan.members) == {e for e, each in known.items() if each.ready or each.serving}
    here = {end for end, each in known.items() if each.node_name == NODE}
    assert ends(b for b in plan.backends if b.flags & BackendFlag.LOCAL) == here & ends(
        plan.backends
    )
    assert plan.name.port == HTTP.name

# SPDX-License-Identifier: Apache-2.0
"""Merging of slices and choice of endpoints (parity A1.6-A1.12, A4, A5)."""

from __future__ import annotations

from pyproxy.model import Endpoint, EndpointSlice, Family, ObjectName, Protocol, SlicePort
from pyproxy.plan.endpoints import Candidate, categorize_endpoints, merge_endpoints
from pyproxy.tables import BackendFlag
from tests.unit.plan.records import HTTP, NODE, endpoint, options, piece, texts


def merged(*slices: EndpointSlice) -> list[Candidate]:
    """Merge slices for port http of IPv4."""
    return merge_endpoints(HTTP, slices, Family.IPV4, options())


def shown(candidates: tuple[Candidate, ...]) -> list[str]:
    """Return the addresses of candidates."""
    return texts([candidate.backend for candidate in candidates])


def chosen(*endpoints: Endpoint, zone: str = "zone-a") -> tuple[list[str], list[str], bool]:
    """Return the Cluster set, the Local set and hasEndpoints of endpoints in one slice."""
    found = categorize_endpoints(
        merged(piece(*endpoints)), options(zone=zone), uses_cluster=True, uses_local=True
    )
    return shown(found.cluster), shown(found.local), found.has_endpoints


def hinted(text: str, *zones: str, nodes: tuple[str, ...] = (), state: str = "ready") -> Endpoint:
    """Return an endpoint with hints."""
    found = endpoint(text, state)
    return found._replace(zone_hints=frozenset(zones), node_hints=frozenset(nodes))


def test_slices_are_united_and_sorted_as_text() -> None:
    """A1.12: endpoints of all slices, each ip:port once, sorted by their text."""
    found = merged(
        piece(endpoint("10.0.0.9"), endpoint("10.0.0.10")),
        piece(endpoint("10.0.0.9"), endpoint("9.0.0.1"), name="web-2"),
    )
    assert shown(tuple(found)) == ["10.0.0.10", "10.0.0.9", "9.0.0.1"]


def test_running_pod_wins_over_terminating_one() -> None:
    """A1.12: of two entries with one ip:port the one that isn't terminating counts."""
    old, new = endpoint("10.0.0.1", "terminating"), endpoint("10.0.0.1")
    for slices in [(piece(old), piece(new)), (piece(new), piece(old)), (piece(old, new, old),)]:
        (only,) = merged(*slices)
        assert only.endpoint is new


def test_later_running_entry_replaces_earlier_one() -> None:
    """A1.12: of two entries that aren't terminating the later counts."""
    first, second = endpoint("10.0.0.1"), endpoint("10.0.0.1", "unready")
    (only,) = merged(piece(first), piece(second))
    assert only.endpoint is second


def test_port_is_matched_by_name_and_protocol() -> None:
    """A1.7: the slice's number counts, under the service port's name and protocol alone."""
    ports = (
        SlicePort("http", Protocol.UDP, 1),
        SlicePort("other", Protocol.TCP, 2),
        SlicePort("http", Protocol.TCP, 3),
    )
    found = merged(piece(endpoint("10.0.0.1"), ports=ports))
    assert [candidate.backend.port for candidate in found] == [3]


def test_slices_may_give_different_numbers() -> None:
    """A1.7: one address with two target ports is two endpoints."""
    other = piece(endpoint("10.0.0.1"), ports=(SlicePort("http", Protocol.TCP, 81),))
    found = merged(piece(endpoint("10.0.0.1")), other)
    assert [candidate.backend.port for candidate in found] == [8080, 81]


def test_other_family_is_left_out() -> None:
    """A1.9: a slice counts for its own family only."""
    six = piece(endpoint("fd00::1"), family=Family.IPV6, name="six")
    assert shown(tuple(merged(piece(endpoint("10.0.0.1")), six))) == ["10.0.0.1"]


def test_local_is_by_node_name_only() -> None:
    """A1.11: local is who names this node; who names none is remote, even if no node is known."""
    (here,) = merged(piece(endpoint("10.0.0.1", node=NODE)))
    (nowhere,) = merge_endpoints(
        HTTP, [piece(endpoint("10.0.0.1", node=""))], Family.IPV4, options(node_name="")
    )
    assert BackendFlag.LOCAL in here.backend.flags
    assert BackendFlag.LOCAL not in nowhere.backend.flags


def test_flags_follow_the_conditions() -> None:
    """Each condition is a flag of the backend."""
    (ready,) = merged(piece(endpoint("10.0.0.1")))
    (leaving,) = merged(piece(endpoint("10.0.0.1", "terminating")))
    assert ready.backend.flags == BackendFlag.READY | BackendFlag.SERVING
    assert leaving.backend.flags == BackendFlag.SERVING | BackendFlag.TERMINATING


def test_ready_endpoints_keep_terminating_ones_out() -> None:
    """A4.1: a terminating endpoint is used only where no ready one is."""
    leaving = endpoint("10.0.0.2", "terminating")
    assert chosen(endpoint("10.0.0.1"), leaving)[0] == ["10.0.0.1"]
    assert chosen(leaving)[0] == ["10.0.0.2"]


def test_sets_fall_back_apart() -> None:
    """A4.2: Local may use a terminating pod while Cluster uses a ready remote one."""
    cluster, local, _ = chosen(endpoint("10.0.0.1"), endpoint("10.0.0.2", "terminating", node=NODE))
    assert (cluster, local) == (["10.0.0.1"], ["10.0.0.2"])


def test_unready_and_dead_are_never_used() -> None:
    """A4.3: serving without terminating, and terminating without serving, are no fall-back."""
    unusable = [endpoint(f"10.0.0.{n}", s, NODE) for n, s in enumerate(("serving", "dead"))]
    assert chosen(*unusable) == ([], [], False)


def test_ready_wins_even_if_terminating() -> None:
    """A4.3: publishNotReadyAddresses shows as ready and terminating, and is used."""
    assert chosen(endpoint("10.0.0.1", terminating=True, node=NODE))[0:2] == (["10.0.0.1"],) * 2


def test_has_endpoints_looks_at_the_whole_cluster() -> None:
    """A4.6: a usable endpoint anywhere counts, be the Local set empty."""
    found = categorize_endpoints(
        merged(piece(endpoint("10.0.0.1", "terminating"))),
        options(),
        uses_cluster=False,
        uses_local=True,
    )
    assert found == ((), (), True)


def test_node_hints_come_before_zone_hints() -> None:
    """A5.2: with node hints on every ready endpoint, one naming us, only those are used."""
    near = hinted("10.0.0.1", "zone-b", nodes=(NODE,))
    far = hinted("10.0.0.2", "zone-a", nodes=("node-9",))
    assert chosen(near, far)[0] == ["10.0.0.1"]
    assert chosen(near, hinted("10.0.0.2", "zone-a"))[0] == ["10.0.0.2"]


def test_zone_hints_are_all_or_nothing() -> None:
    """A5.2: one ready endpoint without a zone hint switches filtering off."""
    near, far = hinted("10.0.0.1", "zone-a"), hinted("10.0.0.2", "zone-b")
    assert chosen(near, far)[0] == ["10.0.0.1"]
    assert chosen(near, far, endpoint("10.0.0.3"))[0] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_zone_without_endpoints_uses_all() -> None:
    """A5.2: where no endpoint is for this node's zone, all are used."""
    far = [hinted("10.0.0.1", "zone-b"), hinted("10.0.0.2", "zone-c")]
    assert chosen(*far)[0] == ["10.0.0.1", "10.0.0.2"]


def test_hints_of_unready_endpoints_are_not_looked_at() -> None:
    """A5.3: neither a missing nor a matching hint of an unready endpoint matters."""
    near, far = hinted("10.0.0.1", "zone-a"), hinted("10.0.0.2", "zone-b")
    assert chosen(near, far, endpoint("10.0.0.3", "unready"))[0] == ["10.0.0.1"]
    assert chosen(far, hinted("10.0.0.3", "zone-a", state="unready"))[0] == ["10.0.0.2"]


def test_hints_never_narrow_local_or_terminating() -> None:
    """A5.4: the Local set and the terminating fall-back don't know hints."""
    here = [
        hinted("10.0.0.1", "zone-a")._replace(node_name=NODE),
        hinted("10.0.0.2", "zone-b")._replace(node_name=NODE),
    ]
    leaving = [
        hinted("10.0.0.1", "zone-a", state="terminating"),
        hinted("10.0.0.2", "zone-b", state="terminating"),
    ]
    assert chosen(*here)[1] == ["10.0.0.1", "10.0.0.2"]
    assert chosen(*leaving)[0] == ["10.0.0.1", "10.0.0.2"]


def test_node_without_a_zone_filters_by_node_only() -> None:
    """A5.5: without a zone there is no filtering by zone; node hints still work."""
    assert chosen(hinted("10.0.0.1", ""), hinted("10.0.0.2", "b"), zone="")[0] == [
        "10.0.0.1",
        "10.0.0.2",
    ]
    both = [hinted("10.0.0.1", nodes=(NODE,)), hinted("10.0.0.2", nodes=("x",))]
    assert chosen(*both, zone="")[0] == ["10.0.0.1"]


def test_hint_is_a_set() -> None:
    """A5.6: several zones in one hint are each served."""
    assert chosen(hinted("10.0.0.1", "zone-b", "zone-a"), hinted("10.0.0.2", "zone-c"))[0] == [
        "10.0.0.1"
    ]


def test_slice_of_a_port_without_endpoints_is_empty() -> None:
    """A service whose slices lack its port has no endpoint."""
    bare = EndpointSlice(ObjectName("ns", "x"), ObjectName("ns", "web"), Family.IPV4, (), ())
    assert merged(bare) == []

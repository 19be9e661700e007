# SPDX-License-Identifier: Apache-2.0
"""Both families' syncers: a failure in one leaves the other alone and is made good."""

from __future__ import annotations

import logging
from typing import NamedTuple

import pytest

from pyproxy.agent.meters import Meters
from pyproxy.agent.sync import RETRY_FIRST_S, RETRY_MOST_S, Syncers, serves
from pyproxy.errors import MapFullError
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.claims import PlanKey
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import Frontend, FrontendKey, Kind, PortPlan
from tests.unit.sync.fake import ROOM, FakeDatapath
from tests.unit.sync.plans import backend, plan


class Family6(FakeDatapath):
    """The same maps for IPv6."""

    family = Family.IPV6


class Loaded(NamedTuple):
    """What Syncers needs of a loaded family."""

    datapath: FakeDatapath


@pytest.fixture
def datapaths() -> dict[Family, FakeDatapath]:
    """Return empty maps of both families."""
    return {Family.IPV4: FakeDatapath(), Family.IPV6: Family6()}


def syncers(datapaths: dict[Family, FakeDatapath]) -> Syncers:
    """Return syncers over fake maps."""
    loaded = {family: Loaded(datapath) for family, datapath in datapaths.items()}
    return Syncers(loaded)  # type: ignore[arg-type] # only the datapath is used


def changes(*plans: PortPlan) -> dict[PlanKey, PortPlan | None]:
    """Return the plans for both families."""
    return {
        PlanKey(each.name, family): each._replace(family=family)
        for each in plans
        for family in Family
    }


def sctp(name: str) -> PortPlan:
    """Return a plan whose protocol is SCTP."""
    made = plan(name)
    key = made.frontends[0].key._replace(protocol=int(Protocol.SCTP))
    return made._replace(
        name=made.name._replace(protocol=Protocol.SCTP),
        frontends=(Frontend(key, Kind.CLUSTER_IP),),
    )


def test_one_family_that_fails_leaves_the_other_alone(
    datapaths: dict[Family, FakeDatapath],
) -> None:
    """The healthy family is written, the other one is named and tried again."""
    both = syncers(datapaths)
    datapaths[Family.IPV4].fail_at = 1
    both.apply(changes(plan("a")))
    assert both.failed
    assert both.retry_at is not None
    assert [problem.code for problem in both.problems()] == ["sync-failed"]
    assert len(datapaths[Family.IPV6].frontends) == 1
    both.apply({})
    assert not any((both.failed, both.retry_at, both.problems()))
    assert len(datapaths[Family.IPV4].frontends) == 1


def test_retries_come_less_and_less_often(
    datapaths: dict[Family, FakeDatapath], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1 s on, doubled up to 30 s, and from 1 s again after a success."""
    monkeypatch.setattr("pyproxy.agent.sync.time.monotonic", lambda: 1000.0)
    both = syncers(datapaths)
    waits = []
    for _ in range(7):
        datapath = datapaths[Family.IPV4]
        datapath.fail_at = datapath.writes + 1
        both.apply(changes(plan("a")))
        waits.append((both.retry_at or 0) - 1000)
    assert waits[:2] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S]
    assert waits[-1] == RETRY_MOST_S
    datapaths[Family.IPV4].fail_at = 0
    both.apply({})
    assert both.retry_at is None


def test_sctp_is_named_once_and_counted(datapaths: dict[Family, FakeDatapath]) -> None:
    """A port that no family serves is one refused port, until it goes."""
    both = syncers(datapaths)
    both.apply(changes(sctp("a"), plan("b", vips=(2,))))
    assert both.refused == 1
    (problem,) = both.problems()
    assert problem.code == "not-served"
    assert "port 80, which leads to 8080" in problem.message
    assert both.notes == {sctp("a").name: problem.message}
    assert both.counts() == (1, 2)
    both.apply(dict.fromkeys(changes(sctp("a"))))
    assert both.refused == 0
    assert not both.notes


def test_what_did_not_fit_is_placed_in_a_quiet_moment() -> None:
    """Once room was made, idle() serves what was refused."""
    datapaths: dict[Family, FakeDatapath] = {Family.IPV4: FakeDatapath(ROOM._replace(services=2))}
    both = syncers(datapaths)
    key, late = (PlanKey(plan(n).name, Family.IPV4) for n in "ab")
    both.apply({key: plan("a", created="1"), late: plan("b", vips=(2,), created="2")})
    assert both.refused == 1
    assert "services" in both.problems()[0].message
    both.apply({key: None})
    while both.has_idle_work:
        both.idle()
    assert both.refused == 0
    assert len(datapaths[Family.IPV4].names) == 1


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_tcp_and_udp_are_served_whatever_the_port(protocol: Protocol) -> None:
    """The programs translate ports."""
    frontend = Frontend(FrontendKey(bytes(4), 80, int(protocol)), Kind.NODE_PORT)
    assert serves(plan("a"), frontend)


def test_sctp_is_served_where_the_port_stays(datapaths: dict[Family, FakeDatapath]) -> None:
    """By the addresses whose port is every backend's; without backends by all."""
    made = sctp("a")
    key = made.frontends[0].key
    same = Frontend(key._replace(port=made.backends[0].port), Kind.CLUSTER_IP)
    other = Frontend(FrontendKey(bytes(4), 30_000, key.protocol), Kind.NODE_PORT)
    both = made._replace(frontends=(same, other))
    assert serves(both, same)
    assert not serves(both, other)
    assert serves(both._replace(backends=()), other)
    synced = syncers(datapaths)
    synced.apply(changes(both))
    assert set(datapaths[Family.IPV4].frontends) == {same.key}
    assert synced.unserved == {both.name: "port 30000, which leads to 8080"}
    synced.apply(changes(both._replace(frontends=(same,))))
    assert synced.unserved == {}


def test_harm_is_told_by_map_and_mended(
    datapaths: dict[Family, FakeDatapath], caplog: pytest.LogCaptureFixture
) -> None:
    """One line a family, whatever the number of steps."""
    both = syncers(datapaths)
    both.apply(changes(plan("a"), plan("b", vips=(2,))))
    ours = datapaths[Family.IPV4]
    before = dict(ours.frontends)
    ours.frontends.clear()
    ours.names.clear()
    caplog.clear()
    for _ in both.audit():
        assert not both.failed
    told = "IPv4: entries of our maps were missing or changed: 2 in frontends, 2 in service_names"
    assert [message.partition(";")[0] for message in caplog.messages] == [told]
    assert ours.frontends == before


def test_harm_that_cannot_be_mended_is_tried_again(
    datapaths: dict[Family, FakeDatapath],
) -> None:
    """As any write that failed; the other family is looked at all the same."""
    both = syncers(datapaths)
    both.apply(changes(plan("a")))
    for each in datapaths.values():
        each.frontends.clear()
    datapaths[Family.IPV4].fail_at = datapaths[Family.IPV4].writes + 1
    for _ in both.audit():
        pass
    assert both.retry_at is not None
    assert len(datapaths[Family.IPV6].frontends) == 1
    both.apply({})
    assert not both.failed
    assert len(datapaths[Family.IPV4].frontends) == 1


def test_backends_are_counted_per_family(datapaths: dict[Family, FakeDatapath]) -> None:
    """A dual-stack service counts once, its backends in each family."""
    both = syncers(datapaths)
    both.apply(changes(plan("a", backends=(backend(1), backend(2)))))
    assert both.counts() == (1, 4)


class Strict:
    """Maps that are told how strict to be, and may be full."""

    def __init__(self) -> None:
        self.told: list[tuple[Prefix, ...] | None] = []
        self.full = False

    def restrict(self, cidrs: tuple[Prefix, ...] | None) -> None:
        """Stand for KernelDatapath.restrict."""
        if self.full:
            raise MapFullError("cluster_cidrs: the map is full")
        self.told.append(cidrs)


V4, V6 = Prefix(bytes((10, 96, 0, 0)), 16), Prefix(bytes(16), 112)
NFTABLES = Options("here", mode=Mode.NFTABLES, service_cidrs=(V4, V6))


@pytest.fixture
def strict(
    datapaths: dict[Family, FakeDatapath], monkeypatch: pytest.MonkeyPatch
) -> dict[Family, Strict]:
    """Return what the families' maps are told."""
    found = {family: Strict() for family in datapaths}
    for family, each in found.items():
        monkeypatch.setattr(datapaths[family], "restrict", each.restrict, raising=False)
    return found


def test_each_family_hears_of_its_own_cidrs_once(
    datapaths: dict[Family, FakeDatapath], strict: dict[Family, Strict]
) -> None:
    """In nftables mode alone; what an earlier agent has left is brought up to date at first."""
    both = syncers(datapaths)
    both.restrict(Options("here"))
    both.restrict(Options("here", service_cidrs=(V4, V6)))
    both.restrict(NFTABLES)
    both.restrict(NFTABLES)
    both.restrict(NFTABLES._replace(service_cidrs=()))
    assert strict[Family.IPV4].told == [None, (V4,), ()]
    assert strict[Family.IPV6].told == [None, (V6,), ()]


def test_cidrs_that_do_not_fit_are_told_of_and_tried_again(
    datapaths: dict[Family, FakeDatapath], strict: dict[Family, Strict]
) -> None:
    """It is a problem as long as it lasts."""
    both = syncers(datapaths)
    strict[Family.IPV6].full = True
    both.restrict(NFTABLES)
    assert [each.code for each in both.problems()] == ["sync-failed"]
    strict[Family.IPV6].full = False
    both.restrict(NFTABLES)
    assert both.problems() == []
    assert strict[Family.IPV6].told == [(V6,)]


def test_sockets_whose_backend_left_are_ended_and_told(
    datapaths: dict[Family, FakeDatapath], caplog: pytest.LogCaptureFixture
) -> None:
    """After the change, so that who connects anew gets another backend; none costs no word."""
    caplog.set_level("INFO")
    both = syncers(datapaths)
    both.apply(changes(plan("a")))
    assert "UDP sockets" not in caplog.text
    datapaths[Family.IPV6].sockets_left = 2
    both.apply({})
    assert "ended 2 connected UDP sockets whose backend has left" in caplog.text


def test_a_kernel_that_ends_no_sockets_is_named(
    datapaths: dict[Family, FakeDatapath], caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else is written all the same."""
    both = syncers(datapaths)
    datapaths[Family.IPV4].cannot_end = True
    both.apply(changes(plan("a")))
    assert "connected UDP sockets keep a backend that left" in caplog.text
    assert not both.failed
    assert len(datapaths[Family.IPV4].frontends) == 1


def test_what_is_planned_is_told_to_who_looks_for_a_fault(
    datapaths: dict[Family, FakeDatapath], caplog: pytest.LogCaptureFixture
) -> None:
    """At -v=4 there is a line for each service port and family, for one that is gone too."""
    caplog.set_level(logging.DEBUG)
    both = syncers(datapaths)
    both.apply(changes(plan("a")))
    both.apply(dict.fromkeys(changes(plan("a"))))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    name = next(iter(changes(plan("a")))).name
    assert told[0] == f"{name}, IPv4: 1 frontends, 1 backends"
    assert told[-1] == f"{name}, IPv6: 0 frontends, 0 backends"


def test_what_is_written_is_measured_by_family(datapaths: dict[Family, FakeDatapath]) -> None:
    """The first time and after a failure all there is, else what has changed (A20.1, A20.2)."""
    meters = Meters(tuple(Family))
    loaded = {family: Loaded(datapath) for family, datapath in datapaths.items()}
    both = Syncers(loaded, meters)  # type: ignore[arg-type] # only the datapath is used
    datapaths[Family.IPV4].fail_at = 1
    both.apply(changes(plan("a")))
    assert both.failed == {Family.IPV4}
    both.apply({})
    both.apply(changes(plan("b", vips=(2,))))
    both.apply({})
    counts = {
        reading.spec.name: [sum(each.counts) for each in reading.values.values()]  # type: ignore[union-attr]
        for reading in meters.read()
        if reading.spec.name.endswith("proxy_rules_duration_seconds")
    }
    errors = next(r for r in meters.read() if r.spec.name == "pyproxy_sync_errors_total")
    assert list(counts.values()) == [[3, 2], [2, 1], [1, 1]]
    assert errors.values == {("IPv4",): 1, ("IPv6",): 0}


def test_map_uses_are_what_the_maps_hold(datapaths: dict[Family, FakeDatapath]) -> None:
    """By the names of status, with the limits of the maps."""
    both = syncers(datapaths)
    both.apply(changes(plan("a"), plan("b", vips=(2,))))
    used = {each.name: each for each in both.map_uses()}
    assert len(used) == 2 * len(ROOM)
    assert used["IPv4 frontends"].used == len(datapaths[Family.IPV4].frontends)
    assert used["IPv4 members"].used == len(datapaths[Family.IPV4].members)
    assert used["IPv6 services"] == ("IPv6 services", 2, ROOM.services - 1)
    assert "IPv4 node_names" in used

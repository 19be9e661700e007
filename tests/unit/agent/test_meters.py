# SPDX-License-Identifier: Apache-2.0
"""The agent counts by kube-proxy's rules (parity A20)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pyproxy.agent import meters
from pyproxy.agent.meters import Meters
from pyproxy.kube.events import Change, Kind
from pyproxy.meters import Distribution, Labels
from pyproxy.model import EndpointSlice, Family, ObjectName, Service
from pyproxy.plan.claims import PlanKey
from pyproxy.tables import PortPlan, ServiceFlag
from tests import builders
from tests.unit.sync.plans import plan

V4, V6 = Family.IPV4, Family.IPV6
START = 1000.0
PROGRAMMING = "kubeproxy_network_programming_duration_seconds"
NO_LOCAL = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"


class Clocked:
    """Meters of a node, dual-stack unless told otherwise, whose time can be set."""

    def __init__(self, mode: str = "iptables", families: Sequence[Family] = (V4, V6)) -> None:
        self.now = START
        self.meters = Meters(families, mode, lambda: self.now)

    def read(self, name: str) -> dict[Labels, float | Distribution]:
        """Return a metric's values by labels."""
        for reading in self.meters.read():
            if reading.spec.name == name:
                return dict(reading.values)
        raise KeyError(name)

    def value(self, name: str, *labels: str) -> float | Distribution:
        """Return one value."""
        return self.read(name)[labels]

    def seen(self, name: str, family: Family = V4) -> tuple[int, float]:
        """Return how many values a histogram has seen, and their sum."""
        found = self.value(name, family.label)
        assert isinstance(found, Distribution)
        return sum(found.counts), found.sum


def slice_change(
    trigger_time: float = 0.0, name: str = "web-a", address: str = "10.0.0.1"
) -> Change:
    """Return a changed slice."""
    piece: EndpointSlice = builders.slice_record(name, endpoints=[builders.endpoint(address)])
    return Change(Kind.ENDPOINT_SLICE, piece.name, piece, trigger_time)


def service_change() -> Change:
    """Return a changed Service."""
    service: Service = builders.service_record()
    return Change(Kind.SERVICE, service.name, service)


def test_programming_is_measured_from_the_trigger_on() -> None:
    """Once for each change, when the maps of its family have it (A20.3)."""
    clocked = Clocked()
    clocked.meters.changed(slice_change(START + 1))
    clocked.meters.changed(slice_change(START + 2))
    clocked.meters.changed(slice_change(START + 2.5, "web-6", "fd00::1"))
    assert clocked.seen(PROGRAMMING) == (0, 0.0)
    clocked.now = START + 3
    clocked.meters.settled([V6])
    assert (clocked.seen(PROGRAMMING), clocked.seen(PROGRAMMING, V6)) == ((2, 3.0), (0, 0.0))
    clocked.meters.settled([])
    assert (clocked.seen(PROGRAMMING), clocked.seen(PROGRAMMING, V6)) == ((2, 3.0), (1, 0.5))


def test_only_what_happened_since_the_start_is_measured() -> None:
    """An old annotation, none, and a slice that is gone say nothing of this agent (A20.3)."""
    clocked = Clocked()
    clocked.meters.changed(slice_change(START))
    clocked.meters.changed(slice_change())
    clocked.meters.changed(slice_change(START + 1, "web-b"))
    clocked.meters.changed(Change(Kind.ENDPOINT_SLICE, ObjectName("default", "web-b"), None))
    clocked.now = START + 2
    clocked.meters.settled([])
    assert clocked.seen(PROGRAMMING) == (0, 0.0)


def test_what_the_node_does_not_serve_is_not_waited_for() -> None:
    """A slice of a family that this node lacks is nobody's change: kube-proxy passes it over."""
    clocked = Clocked(families=[V4])
    for second in range(3):
        clocked.meters.changed(slice_change(START + second + 1, "web-6", "fd00::1"))
    assert clocked.meters.waiting == 0
    assert clocked.read("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds").keys() == {
        (V4.label,)
    }
    assert clocked.value("kubeproxy_sync_proxy_rules_endpoint_changes_total") == 0


def test_triggers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that cannot be written for days remembers no more changes than there is room for."""
    monkeypatch.setattr(meters, "MOST_TRIGGERS", 3)
    clocked = Clocked()
    for second in range(5):
        clocked.meters.changed(slice_change(START + second + 1))
    assert clocked.meters.waiting == 3
    clocked.meters.changed(Change(Kind.ENDPOINT_SLICE, ObjectName("default", "web-a"), None))
    assert clocked.meters.waiting == 0
    clocked.meters.changed(slice_change(START + 6))
    assert clocked.meters.waiting == 1


def test_changes_wait_until_the_maps_have_them() -> None:
    """A Service counts once for each family, a slice once (A20.5)."""
    clocked = Clocked()
    names = [
        f"kubeproxy_sync_proxy_rules_{kind}_changes_{what}"
        for kind in ("service", "endpoint")
        for what in ("pending", "total")
    ]
    clocked.meters.changed(service_change())
    clocked.meters.changed(slice_change())
    clocked.meters.changed(Change(Kind.NODE, ObjectName("", "n1"), None))
    clocked.meters.settled([V6])
    assert [clocked.value(name) for name in names] == [2, 2, 1, 1]
    clocked.meters.settled([])
    assert [clocked.value(name) for name in names] == [0, 2, 0, 1]


def test_time_stamps_are_of_their_family() -> None:
    """Of the last success, and of the last request, the start among those (A20.4)."""
    clocked = Clocked()
    last, queued = (
        f"kubeproxy_sync_proxy_rules_{which}_timestamp_seconds" for which in ("last", "last_queued")
    )
    assert clocked.read(last) == {("IPv4",): 0, ("IPv6",): 0}
    assert clocked.read(queued) == {("IPv4",): START, ("IPv6",): START}
    clocked.now = START + 5
    clocked.meters.changed(slice_change())
    clocked.meters.settled([V6])
    assert clocked.read(last) == {("IPv4",): START + 5, ("IPv6",): 0}
    assert clocked.read(queued) == {("IPv4",): START + 5, ("IPv6",): START}


def local_plan(flags: int, local_count: int = 0) -> PortPlan:
    """Return a plan with these flags."""
    return plan("web")._replace(flags=ServiceFlag(flags), local_count=local_count)


def test_local_policies_without_local_endpoints_are_counted() -> None:
    """Where endpoints are elsewhere; by policy, and no longer when there are some (A20.6)."""
    clocked = Clocked()
    internal, external = ServiceFlag.INTERNAL_LOCAL.value, ServiceFlag.EXTERNAL_LOCAL.value
    has = ServiceFlag.HAS_ENDPOINTS.value
    key = PlanKey(plan("web").name, V4)
    for made, inner, outer in (
        (local_plan(internal | has), 1, 0),
        (local_plan(internal | external | has), 1, 1),
        (local_plan(external | has), 0, 1),
        (local_plan(external | has, local_count=1), 0, 0),
        (local_plan(external), 0, 0),
        (local_plan(external | has), 0, 1),
        (None, 0, 0),
    ):
        clocked.meters.planned({key: made})
        assert clocked.value(NO_LOCAL, "internal", "IPv4") == inner
        assert clocked.value(NO_LOCAL, "external", "IPv4") == outer
        assert clocked.value(NO_LOCAL, "external", "IPv6") == 0


def test_writes_are_full_or_partial_and_may_fail() -> None:
    """Failed ones are measured, too (A20.1, A20.2)."""
    clocked = Clocked()
    clocked.meters.wrote(V4, 0.5, full=True, failed=True)
    clocked.meters.wrote(V4, 0.25, full=False, failed=False)
    prefix, suffix = "kubeproxy_sync_", "proxy_rules_duration_seconds"
    assert clocked.seen(f"{prefix}{suffix}") == (2, 0.75)
    assert clocked.seen(f"{prefix}full_{suffix}") == (1, 0.5)
    assert clocked.seen(f"{prefix}partial_{suffix}") == (1, 0.25)
    assert clocked.read("pyproxy_sync_errors_total") == {("IPv4",): 1, ("IPv6",): 0}


def test_sockets_that_ended_and_entries_that_were_restored_are_counted() -> None:
    """What kube-proxy's reconciler of conntrack does; and what others have broken."""
    clocked = Clocked()
    clocked.meters.ended(V6, 0.125, 3)
    clocked.meters.restored(V4, {"frontends": 2})
    prefix = "kubeproxy_conntrack_reconciler_"
    assert clocked.seen(f"{prefix}sync_duration_seconds", V6) == (1, 0.125)
    assert clocked.value(f"{prefix}deleted_entries_total", "IPv6") == 3
    assert clocked.read("pyproxy_restored_entries_total") == {("frontends", "IPv4"): 2}

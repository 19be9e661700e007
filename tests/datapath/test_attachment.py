# SPDX-License-Identifier: Apache-2.0
"""Beside other people's tc programs and qdiscs: none is ended, hidden or removed (rule 1)."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.clsact import PREFERENCE
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family, Protocol
from tests.datapath.covering import (
    CLSACT_ON_OLD_KERNELS,
    Covering,
    add_filter,
    covering,
    foreign,
    linked,
)
from tests.datapath.foreign import Counting
from tests.datapath.node import Node
from tests.datapath.services import dropping, service
from tests.datapath.wire import DEVICE, FAR, NEAR, SERVICE_AT, Arrivals, Wire, talk

UDP = Protocol.UDP
TC_OK = 0  # TC_ACT_OK: done, no further program is asked
SIDES = pytest.mark.parametrize("side", [NEAR, FAR], ids=["ingress", "egress"])


class Counts:
    """How many packets more some programs have seen since the last look."""

    def __init__(self, *programs: Counting) -> None:
        self._programs = programs
        self._before = [0] * len(programs)

    def more(self) -> list[int]:
        """Return what came since the last call, by program."""
        now = [program.seen for program in self._programs]
        grown = [n - before for n, before in zip(now, self._before, strict=True)]
        self._before = now
        return grown


def drop_on(node: Node, side: str, family: Family) -> None:
    """Have the packets to the service of a side dropped: there, or when they leave for it."""
    make = dropping if side == NEAR else service
    node.apply(make(family, SERVICE_AT[side], protocol=UDP))


@CLSACT_ON_OLD_KERNELS
@SIDES
def test_rule_01_filters_before_and_after_see_packets(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, side: str
) -> None:
    """Filters of others run before and after ours, but for what is dropped; so it is by tcx."""
    direction = "ingress" if side == NEAR else "egress"
    drop_on(node, side, Family.IPV4)
    with foreign(node, "before") as before, foreign(node, "after") as after:
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        add_filter(wire, before, PREFERENCE - 5, direction)
        add_filter(wire, after, PREFERENCE + 5, direction)
        counts = Counts(before, after)
        with (
            covering(node, wire, tmp_path, tcx=tcx),
            Arrivals(wire, side, Family.IPV4, UDP) as arrivals,
        ):
            counts.more()
            assert not arrivals.passes()
            seen_before, seen_after = counts.more()
        # the marker at least; tcx programs run before all filters of clsact
        assert seen_after > 0
        assert seen_before == seen_after + (0 if tcx else 1)


@SIDES
def test_rule_01_tcx_programs_of_all_ages_see_packets(
    node: Node, wire: Wire, tmp_path: Path, side: str, family: Family
) -> None:
    """Ours is first when it comes; what was there and what comes later see what it passes."""
    if not libbpf.tcx_exists():
        return
    attach_type = TCX_INGRESS if side == NEAR else TCX_EGRESS
    drop_on(node, side, family)
    with ExitStack() as stack:
        old, new, head = (stack.enter_context(foreign(node, name)) for name in ("a", "b", "c"))
        stack.enter_context(linked(wire, old, attach_type=attach_type))
        stack.enter_context(covering(node, wire, tmp_path, tcx=True))
        stack.enter_context(linked(wire, new, attach_type=attach_type))
        stack.enter_context(linked(wire, head, first=True, attach_type=attach_type))
        arrivals = stack.enter_context(Arrivals(wire, side, family, UDP))
        counts = Counts(old, new, head)
        counts.more()
        assert not arrivals.passes()
        seen_old, seen_new, seen_head = counts.more()
    assert seen_old == seen_new > 0
    # who puts itself before us sees everything
    assert seen_head == seen_new + 1


@CLSACT_ON_OLD_KERNELS
def test_rule_01_what_is_translated_goes_on_to_others(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, family: Family
) -> None:
    """A policy program after ours sees every packet of a connection that is translated."""
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=UDP, local=1))
    with ExitStack() as stack:
        inward, outward = (stack.enter_context(foreign(node, name)) for name in ("in", "out"))
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        stack.enter_context(covering(node, wire, tmp_path, tcx=tcx))
        add_filter(wire, inward, PREFERENCE + 5, "ingress")
        add_filter(wire, outward, PREFERENCE + 5, "egress")
        talk(wire, family, UDP)  # afterwards both know the other's address on the wire
        counts = Counts(inward, outward)
        counts.more()
        talk(wire, family, UDP)
        assert all(seen >= 1 for seen in counts.more())


def test_rule_01_a_policy_after_ours_still_drops(
    node: Node, covered: Covering, family: Family
) -> None:
    """What somebody's filter drops behind us does not arrive, translated or not."""
    wire = covered.wire
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=UDP, local=1))
    talk(wire, family, UDP)
    if covered.tcx:
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
    with foreign(node, "policy", verdict=2) as policy:  # TC_ACT_SHOT
        add_filter(wire, policy, PREFERENCE + 5)
        with node.counting(family, packet_open=1, packet_in=1), pytest.raises(TimeoutError):
            talk(wire, family, UDP, timeout_s=0.2)
        assert policy.seen > 0
        wire.tc("filter", "del", "dev", DEVICE, "ingress", "pref", str(PREFERENCE + 5))


def test_rule_01_a_chain_that_another_ends_is_covered_by_tcx(
    node: Node, wire: Wire, tmp_path: Path, family: Family
) -> None:
    """A filter that says "done" hides what follows on clsact; tcx programs run before it."""
    if not libbpf.tcx_exists():
        return
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=UDP, local=1))
    with foreign(node, "ends", verdict=TC_OK) as ends:
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        add_filter(wire, ends, PREFERENCE - 5)
        with covering(node, wire, tmp_path, tcx=True):
            talk(wire, family, UDP)
            assert ends.seen > 0


def test_rule_01_a_foreign_clsact_stays(node: Node, wire: Wire, tmp_path: Path) -> None:
    """A clsact that somebody else made stays when our filters go, even with nothing on it."""
    wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
    with covering(node, wire, tmp_path, tcx=False):
        for direction in ("ingress", "egress"):
            assert [preference for preference, _ in wire.filters(direction)] == [PREFERENCE]
    assert "clsact" in wire.qdiscs()
    assert wire.filters() == wire.filters("egress") == []


def test_rule_01_our_clsact_goes_when_it_is_empty(node: Node, wire: Wire, tmp_path: Path) -> None:
    """The clsact that we made is removed with our last filter."""
    with covering(node, wire, tmp_path, tcx=False):
        assert "clsact" in wire.qdiscs()
    assert "clsact" not in wire.qdiscs()


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_rule_01_a_foreign_filter_keeps_our_clsact(
    node: Node, wire: Wire, tmp_path: Path, direction: str
) -> None:
    """The clsact that we made stays while somebody's filter is on it, and so does the filter."""
    with foreign(node, "neighbour") as program:
        with covering(node, wire, tmp_path, tcx=False):
            add_filter(wire, program, 100, direction)
        left = wire.filters("ingress") + wire.filters("egress")
        assert [preference for preference, _ in left] == [100]


def test_rule_01_a_clsact_with_an_old_ifindex_is_not_ours(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """A new device has the ifindex of one that we made a clsact on: its own clsact stays."""
    with covering(node, wire, tmp_path, tcx=False) as made:
        old = wire.device
        wire.unplug()
        made.forget([])
        wire.plug(old.ifindex)
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        assert made.attach([wire.device]) == {}
    assert "clsact" in wire.qdiscs()


def test_rule_01_an_ingress_qdisc_is_reported(node: Node, wire: Wire, tmp_path: Path) -> None:
    """An ingress qdisc excludes clsact: the device is named with the remedy, and left alone."""
    wire.tc("qdisc", "add", "dev", DEVICE, "ingress")
    made = Covering(node, wire, tmp_path, tcx=False)
    failures = made.attach([wire.device])
    assert list(failures) == [wire.device]
    assert all("ingress qdisc" in why and "--devices" in why for why in failures.values())
    assert "ingress" in wire.qdiscs()


@pytest.mark.parametrize("is_first", [True, False], ids=["plugin-first", "plugin-later"])
def test_rule_01_the_bandwidth_plugin_works_beside_tcx(
    node: Node, wire: Wire, tmp_path: Path, family: Family, is_first: bool
) -> None:
    """The plugin's `tc qdisc add ... ingress` works before and after us, and so do we."""
    if not libbpf.tcx_exists():
        return
    qdisc = ("qdisc", "add", "dev", DEVICE, "ingress")
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=UDP, local=1))
    if is_first:
        wire.tc(*qdisc)
    with covering(node, wire, tmp_path, tcx=True):
        if not is_first:
            wire.tc(*qdisc)
        assert "ingress" in wire.qdiscs()
        talk(wire, family, UDP)
    assert "ingress" in wire.qdiscs()


@pytest.mark.parametrize("tcx", ["tcx", "clsact"], indirect=True)
def test_programs_that_were_taken_off_are_put_back(
    covered: Covering, node: Node, wire: Wire, tcx: bool
) -> None:
    """By whoever detaches links or deletes qdiscs; the next look at the device repairs it."""
    node.apply(service(Family.IPV4, SERVICE_AT[NEAR], [1], local=1))
    talk(wire, Family.IPV4, Protocol.TCP)
    if tcx:
        for pin in covered.pins:
            with links.opened(pin) as link:
                assert ctypes.CDLL("libbpf.so.1").bpf_link_detach(link) == 0
    else:
        wire.tc("qdisc", "del", "dev", DEVICE, "clsact")
    with pytest.raises(OSError, match="refused"):
        talk(wire, Family.IPV4, Protocol.TCP, timeout_s=0.2)
    assert covered.attach([wire.device]) == {}
    talk(wire, Family.IPV4, Protocol.TCP)

# SPDX-License-Identifier: Apache-2.0
"""By which devices packets may skip the stack: nothing of anybody's is passed by."""

from __future__ import annotations

import subprocess

import pytest

from pyproxy.kernel.addresses import FAST, PEER
from pyproxy.kernel.devices import devices
from pyproxy.kernel.fastpath import skipping_devices
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from tests.datapath.covering import (
    CLSACT_ON_OLD_KERNELS,
    Covering,
    add_filter,
    foreign,
    linked,
)
from tests.datapath.node import Node, run_ip
from tests.datapath.wire import DEVICE, NEAR, Wire

BOTH = FAST | PEER


def flags_of(covered: Covering, name: str = DEVICE) -> int:
    """Return what a device is good for."""
    entries, wire = covered.entries, covered.wire
    found = wire.inside(lambda: (skipping_devices(entries, devices()), devices([name])))
    return found[0].get(found[1][0].ifindex, 0)


def run(wire: Wire, *command: str) -> None:
    """Run a command in the near namespace."""
    subprocess.run(["nsenter", f"--net={wire.paths[NEAR]}", *command], check=True)


@CLSACT_ON_OLD_KERNELS
def test_a_pods_device_with_our_programs(covered: Covering) -> None:
    """Nobody else is there, nothing queues, and its other end is in another namespace."""
    assert flags_of(covered) == BOTH


@CLSACT_ON_OLD_KERNELS
def test_a_device_without_our_programs(covered: Covering) -> None:
    """Nothing that comes by it is ours to send on."""
    covered.detach(covered.wire.inside(devices))
    assert flags_of(covered) == 0


@pytest.mark.parametrize("tcx", ["tcx"], indirect=True)
@pytest.mark.parametrize(
    ("attach_type", "first", "expected"),
    [
        (TCX_INGRESS, False, PEER),
        (TCX_INGRESS, True, BOTH),
        (TCX_EGRESS, False, FAST),
        (TCX_EGRESS, True, FAST),
    ],
)
def test_somebodys_program(
    covered: Covering, node: Node, attach_type: int, first: bool, expected: int
) -> None:
    """One that runs before ours at ingress sees all packets; none at egress would."""
    with (
        foreign(node, "else") as program,
        linked(covered.wire, program, first=first, attach_type=attach_type),
    ):
        assert flags_of(covered) == expected
    assert flags_of(covered) == BOTH


@CLSACT_ON_OLD_KERNELS
@pytest.mark.parametrize(("side", "expected"), [("ingress", PEER), ("egress", FAST)])
def test_somebodys_filter(covered: Covering, node: Node, side: str, expected: int) -> None:
    """Filters come after tcx programs, and after ours where those are filters."""
    wire = covered.wire
    if "clsact" not in wire.qdiscs():
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
    assert flags_of(covered) == BOTH
    with foreign(node, "else") as program:
        add_filter(wire, program, 20, side)
        assert flags_of(covered) == expected
        wire.tc("filter", "del", "dev", DEVICE, side, "pref", "20")
    assert flags_of(covered) == BOTH


def test_what_queues_at_a_device(covered: Covering) -> None:
    """A bandwidth plugin's, or anybody's, delays what leaves: it does not go past that."""
    wire = covered.wire
    wire.tc("qdisc", "add", "dev", DEVICE, "root", "pfifo")
    assert flags_of(covered) == FAST
    wire.tc("qdisc", "del", "dev", DEVICE, "root")
    assert flags_of(covered) == BOTH


@pytest.mark.parametrize("hook", ["ingress", "egress"])
def test_a_chain_of_the_device(covered: Covering, hook: str) -> None:
    """Nftables has such hooks before and after IP."""
    chain = f"{{ type filter hook {hook} device {DEVICE} priority 0; }}"
    run(covered.wire, "nft", f"add table netdev own; add chain netdev own here {chain}")
    assert flags_of(covered) == 0
    run(covered.wire, "nft", "delete table netdev own")
    assert flags_of(covered) == BOTH


def test_a_chain_of_inet(covered: Covering) -> None:
    """That family has the hook of a device, too, and others that are no device's."""
    wire = covered.wire
    run(
        wire,
        "nft",
        "add table inet own; add chain inet own in { type filter hook input priority 0; }",
    )
    assert flags_of(covered) == BOTH
    chain = f"{{ type filter hook ingress device {DEVICE} priority 0; }}"
    run(wire, "nft", f"add chain inet own here {chain}")
    assert flags_of(covered) == 0
    run(wire, "nft", "delete table inet own")


@pytest.mark.parametrize("bridge_is_covered", [True, False])
def test_a_bridges_port(covered: Covering, bridge_is_covered: bool) -> None:
    """What is for a bridge may be for the port whose address it has, and skips both or neither."""
    wire = covered.wire
    run_ip(wire.paths[NEAR], "link add bridge type bridge", f"link set {DEVICE} master bridge")
    if bridge_is_covered:
        assert covered.attach(wire.inside(devices)) == {}
    expected = FAST if bridge_is_covered else 0
    assert (flags_of(covered), flags_of(covered, "bridge")) == (expected, expected)


def test_a_device_without_link_layer(covered: Covering) -> None:
    """There are no Ethernet addresses to be written."""
    wire = covered.wire
    run_ip(wire.paths[NEAR], "tuntap add dev bare mode tun")
    assert covered.attach(wire.inside(devices)) == {}
    assert flags_of(covered, "bare") == 0


def test_a_pair_in_one_namespace(covered: Covering) -> None:
    """Its other end is no pod's: what arrives there is this node's to look at."""
    wire = covered.wire
    run_ip(wire.paths[NEAR], "link add one type veth peer name two")
    assert covered.attach(wire.inside(devices)) == {}
    assert flags_of(covered, "one") == FAST

# SPDX-License-Identifier: Apache-2.0
"""Guards on real devices: attached by tcx and by clsact, beside other people's programs."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyproxy.kernel import inspect, libbpf, links
from pyproxy.kernel.clsact import EGRESS, INGRESS, PREFERENCE, Clsact, Filter
from pyproxy.kernel.devices import Device, devices
from pyproxy.kernel.guards import Guards, guard_pins
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family, Protocol
from tests.datapath import children, packets
from tests.datapath.foreign import Counting
from tests.datapath.node import Node
from tests.datapath.packets import SYN, packet
from tests.datapath.prog_run import IP_BYTES
from tests.datapath.services import dropping, service
from tests.datapath.wire import DEVICE, FAR, NEAR, SERVICE_AT, Arrivals, Wire
from tests.lab import netns
from tests.lab.waiting import wait_for

TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI = 1, 0x1000


@pytest.fixture
def wire(node: Node) -> Iterator[Wire]:
    """A veth pair between two namespaces."""
    with ExitStack() as undo:
        yield Wire(node, undo)


@pytest.fixture(params=["tcx", "clsact"])
def tcx(request: pytest.FixtureRequest) -> bool:
    """Both ways of attaching; where the kernel has no tcx, clsact is the only one."""
    wants_tcx = request.param == "tcx"
    return wants_tcx and libbpf.tcx_exists()


# Debian 12's kernel has no tcx: clsact is what counts there
CLSACT_ON_OLD_KERNELS = pytest.mark.parametrize(
    "tcx", ["tcx", pytest.param("clsact", marks=pytest.mark.kernel)], indirect=True
)


class Guarded:
    """The guards of both families in the near namespace, as the agent attaches them."""

    def __init__(self, node: Node, wire: Wire, run_dir: Path, *, tcx: bool) -> None:
        self.node, self.wire, self.tcx = node, wire, tcx
        self._guards = {f: Guards(each.pins, run_dir, tcx=tcx) for f, each in node.loaded.items()}

    def attach(self, devices: list[Device]) -> list[str]:
        """Attach to devices, and forget others; return what failed."""

        def work() -> list[str]:
            return [
                failure
                for family, guards in self._guards.items()
                for failure in guards.attach(self.node.loaded[family].digest, devices)
            ]

        return self.wire.inside(work)

    def detach(self, devices: list[Device]) -> None:
        """Take the guards off devices again: filters are removed, links end with their pins."""

        def work() -> None:
            for guards in self._guards.values():
                guards.detach(devices)

        self.wire.inside(work)
        for each in self.node.loaded.values():
            for pin in guard_pins(each.pins):
                pin.unlink()


@contextmanager
def guarded(node: Node, wire: Wire, run_dir: Path, *, tcx: bool) -> Iterator[Guarded]:
    """Attach the guards to the near device; nothing of them is left afterwards."""
    made = Guarded(node, wire, run_dir, tcx=tcx)
    try:
        assert made.attach([wire.device]) == []
        yield made
    finally:
        made.detach(wire.inside(devices))


@pytest.fixture
def guards(node: Node, wire: Wire, tmp_path: Path, tcx: bool) -> Iterator[Guarded]:
    """The guards, attached to the near device in both ways."""
    with guarded(node, wire, tmp_path, tcx=tcx) as made:
        yield made


@contextmanager
def foreign(node: Node, name: str) -> Iterator[Counting]:
    """Give somebody else's counting program, pinned."""
    made = Counting(node.bpffs / name)
    try:
        yield made
    finally:
        made.close()


def add_filter(wire: Wire, program: Counting, preference: int) -> None:
    """Attach a program to the near device's ingress by tc; the clsact must be there."""
    where = ("filter", "add", "dev", DEVICE, "ingress", "pref", str(preference))
    wire.tc(*where, "bpf", "da", "object-pinned", program.pin)


@CLSACT_ON_OLD_KERNELS
@pytest.mark.parametrize("side", [NEAR, FAR], ids=["ingress", "egress"])
def test_the_guard_drops_on_the_wire(
    node: Node, guards: Guarded, family: Family, side: str
) -> None:
    """What a policy drops does not arrive, neither way, until the policy has an endpoint."""
    number = SERVICE_AT[side]
    for protocol in (Protocol.TCP, Protocol.UDP):
        with Arrivals(guards.wire, side, family, protocol) as arrivals:
            assert arrivals.passes()
            node.apply(dropping(family, number, protocol))
            with node.counting(family, guard_drop=1):
                assert not arrivals.passes()
            node.apply(dropping(family, number, protocol, local=1))
            assert arrivals.passes()


def test_detached_guards_drop_nothing(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, family: Family
) -> None:
    """Once the guards are off a device everything passes again."""
    node.apply(dropping(family, SERVICE_AT[NEAR]))
    with Arrivals(wire, NEAR, family, Protocol.TCP) as arrivals:
        with guarded(node, wire, tmp_path, tcx=tcx):
            assert not arrivals.passes()
        # a link ends some time after its last pin (bpf_link_put defers it to a worker)
        wait_for(arrivals.passes, children.patience_s(), "the links to end")
    assert "clsact" not in wire.qdiscs()


@CLSACT_ON_OLD_KERNELS
def test_rule_01_filters_before_and_after_see_packets(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool
) -> None:
    """Filters of others on the same clsact run before and after the guard, whatever it is."""
    node.apply(dropping(Family.IPV4, SERVICE_AT[NEAR], Protocol.UDP))
    with foreign(node, "before") as before, foreign(node, "after") as after:
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        add_filter(wire, before, PREFERENCE - 5)
        add_filter(wire, after, PREFERENCE + 5)
        with (
            guarded(node, wire, tmp_path, tcx=tcx),
            Arrivals(wire, NEAR, Family.IPV4, Protocol.UDP) as arrivals,
        ):
            counted = before.seen, after.seen
            assert not arrivals.passes()
            seen_before, seen_after = before.seen - counted[0], after.seen - counted[1]
        # the marker at least; tcx programs run before all filters of clsact
        assert seen_after > 0
        assert seen_before == seen_after + (0 if tcx else 1)


def test_rule_01_tcx_programs_before_and_after_see_packets(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """Other people's tcx programs run before and after the guard and are not replaced."""
    if not libbpf.tcx_exists():
        return
    index = wire.device.ifindex
    node.apply(dropping(Family.IPV6, SERVICE_AT[NEAR], Protocol.UDP))
    with ExitStack() as stack:
        before, after = (stack.enter_context(foreign(node, name)) for name in ("before", "after"))
        first = wire.inside(lambda: _pinned_link(before, index, node.bpffs / "first"))
        stack.callback(first.unlink)
        stack.enter_context(guarded(node, wire, tmp_path, tcx=True))
        last = wire.inside(lambda: _pinned_link(after, index, node.bpffs / "last"))
        stack.callback(last.unlink)
        with Arrivals(wire, NEAR, Family.IPV6, Protocol.UDP) as arrivals:
            counted = before.seen, after.seen
            assert not arrivals.passes()
            assert after.seen > counted[1]
            assert before.seen - counted[0] == after.seen - counted[1] + 1


def _pinned_link(program: Counting, ifindex: int, pin: Path) -> Path:
    link = program.link(ifindex, TCX_INGRESS)
    libbpf.obj_pin(link, str(pin))
    os.close(link)
    return pin


def test_rule_01_a_foreign_clsact_stays(node: Node, wire: Wire, tmp_path: Path) -> None:
    """A clsact that somebody else made stays when our filters go, even with nothing on it."""
    wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
    with guarded(node, wire, tmp_path, tcx=False):
        assert [pref for pref, _ in wire.filters()] == [PREFERENCE] * 2
    assert "clsact" in wire.qdiscs()
    assert wire.filters() == wire.filters("egress") == []


def test_rule_01_our_clsact_goes_when_it_is_empty(node: Node, wire: Wire, tmp_path: Path) -> None:
    """The clsact that we made is removed with our last filter."""
    with guarded(node, wire, tmp_path, tcx=False):
        assert "clsact" in wire.qdiscs()
    assert "clsact" not in wire.qdiscs()


def test_rule_01_a_foreign_filter_keeps_our_clsact(node: Node, wire: Wire, tmp_path: Path) -> None:
    """The clsact that we made stays while somebody's filter is on it, and so does the filter."""
    with foreign(node, "neighbour") as program:
        with guarded(node, wire, tmp_path, tcx=False):
            add_filter(wire, program, 100)
        assert [preference for preference, _ in wire.filters()] == [100]
        assert wire.filters("egress") == []


def test_rule_01_an_ingress_qdisc_is_reported(node: Node, wire: Wire, tmp_path: Path) -> None:
    """An ingress qdisc excludes clsact: the device is named with the remedy, and left alone."""
    wire.tc("qdisc", "add", "dev", DEVICE, "ingress")
    made = Guarded(node, wire, tmp_path, tcx=False)
    failures = made.attach([wire.device])
    assert len(failures) == len(Family)
    assert all(DEVICE in each and "--devices" in each for each in failures)
    assert "ingress" in wire.qdiscs()


def test_attaching_again_changes_nothing(node: Node, guards: Guarded) -> None:
    """Guards that are there are left alone: the same links, one filter a family and side."""
    before = _what_is_attached(node, guards.wire)
    assert guards.attach([guards.wire.device]) == []
    assert _what_is_attached(node, guards.wire) == before
    expected = [] if guards.tcx else ["pyproxy-guard-4", "pyproxy-guard-6"]
    assert [name[: len("pyproxy-guard-4")] for _, name in before[1]] == expected
    assert len(before[0]) == (4 if guards.tcx else 0)


def _what_is_attached(node: Node, wire: Wire) -> tuple[list[int], list[tuple[int, str]]]:
    pins = [pin for each in node.loaded.values() for pin in guard_pins(each.pins)]
    ids = [found.id for pin in pins if (found := links.read(pin))]
    has_clsact = "clsact" in wire.qdiscs()
    return ids, sorted(wire.filters()) if has_clsact else []


def test_a_filter_of_another_program_is_replaced(node: Node, wire: Wire, tmp_path: Path) -> None:
    """A new program takes the place of the old one's filter, on both sides."""
    clsact, index = Clsact(tmp_path), wire.device.ifindex
    programs = node.loaded[Family.IPV4].programs

    def replace(parent: int) -> list[tuple[bool, str | None]]:
        wanted = Filter(index, parent, 4)
        return [
            (clsact.ensure(wanted, programs / name), clsact.tag(wanted))
            for name in ("guard_l3", "guard_l3", "guard")
        ]

    expected = []
    for name, is_new in (("guard_l3", True), ("guard_l3", False), ("guard", True)):
        with links.opened(programs / name) as fd:
            expected.append((is_new, libbpf.program_info(fd).tag))
    assert wire.inside(lambda: [replace(INGRESS), replace(EGRESS)]) == [expected, expected]
    assert len(wire.filters()) == len(wire.filters("egress")) == 1


def test_a_device_that_vanished_is_reported_alone(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, family: Family
) -> None:
    """A device that is gone when it is attached to is named; the others are guarded."""
    node.apply(dropping(family, SERVICE_AT[NEAR]))
    made = Guarded(node, wire, tmp_path, tcx=tcx)
    gone = Device(99, "gone", has_link_layer=True)
    failures = made.attach([gone, wire.device])
    assert len(failures) == len(Family)
    assert all(each.startswith("gone: ") for each in failures)
    with Arrivals(wire, NEAR, family, Protocol.TCP) as arrivals:
        assert not arrivals.passes()
    made.detach([wire.device])


def test_links_of_a_device_that_vanished_are_forgotten(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """A deleted device's links are unpinned at the next look at the devices."""
    if not libbpf.tcx_exists():
        return
    with guarded(node, wire, tmp_path, tcx=True) as guards:
        assert len(guard_pins(node.loaded[Family.IPV4].pins)) == 2
        wire.unplug()
        assert guards.attach([]) == []
        assert guard_pins(node.loaded[Family.IPV4].pins) == []


def test_a_new_device_with_an_old_ifindex_is_guarded(node: Node, guards: Guarded) -> None:
    """A device deleted and another made with its ifindex: the guards are on the new one."""
    wire, old = guards.wire, guards.wire.device
    wire.unplug()
    wire.plug(old.ifindex)
    assert wire.device.ifindex == old.ifindex
    assert guards.attach([wire.device]) == []
    if guards.tcx:
        found = [links.read(pin) for pin in guard_pins(node.loaded[Family.IPV6].pins)]
        kinds = {(each.target, each.attach_type) for each in found if each}
        assert kinds == {(old.ifindex, TCX_INGRESS), (old.ifindex, TCX_EGRESS)}
    else:
        assert len(wire.filters()) == len(wire.filters("egress")) == len(Family)


def test_rule_01_a_clsact_with_an_old_ifindex_is_not_ours(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """A new device has the ifindex of one that we made a clsact on: its own clsact stays."""
    with guarded(node, wire, tmp_path, tcx=False) as guards:
        old = wire.device
        wire.unplug()
        assert guards.attach([]) == []
        wire.plug(old.ifindex)
        wire.tc("qdisc", "add", "dev", DEVICE, "clsact")
        assert guards.attach([wire.device]) == []
    assert "clsact" in wire.qdiscs()


@contextmanager
def tun(wire: Wire) -> Iterator[int]:
    """Make a device without link layer in the near namespace; give its descriptor."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", b"tun", IFF_TUN | IFF_NO_PI))
        subprocess.run(["ip", "link", "set", "tun", "up"], check=True)
        return fd

    fd = netns.inside(wire.paths[NEAR], make)
    try:
        yield fd
    finally:
        os.close(fd)


def test_devices_without_link_layer_get_a_guard_of_their_own(
    node: Node, guards: Guarded, family: Family
) -> None:
    """On a tun device the IP header comes first: what must be dropped is, cut off it is not."""
    whole = packet(family, packets.tcp(SYN), Protocol.TCP)
    needed = IP_BYTES[family] + 14
    node.apply(dropping(family, 1))
    with tun(guards.wire) as fd:
        (device,) = guards.wire.inside(lambda: devices(["tun"]))
        assert not device.has_link_layer
        assert guards.attach([device]) == []
        with node.counting(family, guard_drop=len(whole) - needed + 1):
            for length in range(1, len(whole) + 1):
                os.write(fd, whole[:length])
        # a service with endpoints: its SYN goes by
        node.apply(service(family, 1, [1]), dropping(family, 3))
        with node.counting(family):
            os.write(fd, whole)


def test_status_sees_the_guards(node: Node, wire: Wire, tmp_path: Path) -> None:
    """Guards on devices are listed as attached, with the tag of the program that is pinned."""
    if not libbpf.tcx_exists():
        return
    with guarded(node, wire, tmp_path, tcx=True):
        pins = node.loaded[Family.IPV4].pins
        found = wire.inside(lambda: list(inspect.programs(pins, node.cgroup)))
    guards = [each for each in found if each.target == DEVICE]
    assert {each.hook for each in guards} == {"tcx ingress", "tcx egress"}
    assert all(each.attached and each.tag == each.expected for each in found)

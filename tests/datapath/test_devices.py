# SPDX-License-Identifier: Apache-2.0
"""The packet path on real devices, attached by tcx and by clsact: covered, and let go again."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyproxy.kernel import inspect, libbpf, links
from pyproxy.kernel.clsact import EGRESS, INGRESS, NAME, PREFERENCE, Clsact, Filter
from pyproxy.kernel.devices import Device, devices
from pyproxy.kernel.programs import ENTRIES, OTHER_FAMILY_ARRAY, TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family, Protocol
from tests.datapath import children
from tests.datapath.asking import errno_of
from tests.datapath.covering import CLSACT_ON_OLD_KERNELS, Covering, covering
from tests.datapath.flavours import SERVICE_PORT, backend_address, service_address
from tests.datapath.node import Node, run_ip
from tests.datapath.services import dropping, refusing, service
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, SERVICE_AT, Arrivals, Wire, talk
from tests.lab import netns
from tests.lab.bpf_objects import bpftool
from tests.lab.waiting import wait_for

TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI = 1, 0x1000


def tag(program: Path) -> str:
    """Return the tag of a pinned program."""
    with links.opened(program) as fd:
        return libbpf.program_info(fd).tag


@CLSACT_ON_OLD_KERNELS
def test_a_client_reaches_a_service_by_packets_alone(
    node: Node, covered: Covering, family: Family, protocol: Protocol
) -> None:
    """Both ends see what they should, and only the packet path has done anything for it."""
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=protocol, local=1))
    before = node.counters(family)
    seen = talk(covered.wire, family, protocol)
    grown = {k for k, n in node.counters(family).items() if n != before[k]}
    assert grown == {"packet_open", "packet_in", "packet_out"}
    assert seen.by_client == FLAVOURS[family].service(SERVICE_AT[NEAR], SERVICE_PORT)
    assert seen.by_backend == seen.client


def test_a_local_policy_without_endpoints_drops(
    node: Node, covered: Covering, family: Family, protocol: Protocol
) -> None:
    """What a policy drops does not arrive, until it has an endpoint on this node (A8.2)."""
    number = SERVICE_AT[NEAR]
    with Arrivals(covered.wire, NEAR, family, protocol) as arrivals:
        assert arrivals.passes()
        node.apply(dropping(family, number, protocol))
        with node.counting(family, packet_drop=1):
            assert not arrivals.passes()
    node.apply(dropping(family, number, protocol, local=1))
    talk(covered.wire, family, protocol)


def test_rule_10_a_service_address_does_not_leave(
    node: Node, covered: Covering, family: Family, protocol: Protocol
) -> None:
    """What no socket hook has translated and would leave for a ClusterIP is dropped, counted."""
    number = SERVICE_AT[FAR]
    with Arrivals(covered.wire, FAR, family, protocol) as arrivals:
        assert arrivals.passes()
        plan = service(family, number, [1], protocol=protocol)
        node.apply(plan)
        with node.counting(family, packet_leak=1):
            assert not arrivals.passes()
        node.remove(plan)
        with node.counting(family):
            assert arrivals.passes()


def test_detached_programs_do_nothing(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, family: Family
) -> None:
    """Once they are off a device everything passes again, and nothing of ours is on it."""
    node.apply(dropping(family, SERVICE_AT[NEAR]))
    with Arrivals(wire, NEAR, family, Protocol.TCP) as arrivals:
        with covering(node, wire, tmp_path, tcx=tcx) as made:
            assert not arrivals.passes()
        # a link ends some time after its last pin (bpf_link_put defers it to a worker)
        wait_for(arrivals.passes, children.patience_s(), "the links to end")
    assert made.attached == ([], [], [])
    assert "clsact" not in wire.qdiscs()


def test_one_program_a_side_serves_both_families(node: Node, covered: Covering) -> None:
    """A device has one program on each side, the IPv4 object's for frames."""
    programs = node.loaded[Family.IPV4].programs
    attached = covered.attached
    if covered.tcx:
        found = {pin.name: links.read(pin) for pin in covered.pins}
        index = covered.wire.device.ifindex
        expected = {
            f"{index}-{side}": (index, attach_type)
            for side, attach_type in (("ingress", TCX_INGRESS), ("egress", TCX_EGRESS))
        }
        assert {n: (f.target, f.attach_type) for n, f in found.items() if f} == expected
        assert (attached.ingress, attached.egress) == ([], [])
        return
    assert attached.links == []
    for filters, side in ((attached.ingress, "ingress"), (attached.egress, "egress")):
        with links.opened(programs / side) as fd:
            info = libbpf.program_info(fd)
        assert filters == [(PREFERENCE, f"{NAME}{info.tag}-{info.id}")]


def test_attaching_again_changes_nothing(covered: Covering) -> None:
    """What is there is left alone: the same links, the same filters."""
    before = covered.attached
    assert covered.attach([covered.wire.device]) == {}
    assert covered.attached == before


def test_ipv6_packets_pass_while_nobody_is_there_for_them(
    node: Node, covered: Covering, protocol: Protocol
) -> None:
    """Until the IPv6 programs have joined their packets pass untouched; then they are served."""
    node.apply(service(Family.IPV6, SERVICE_AT[NEAR], [1], protocol=protocol, local=1))
    with links.opened(node.loaded[Family.IPV4].programs / OTHER_FAMILY_ARRAY) as fd:
        for index in range(len(ENTRIES)):
            assert libbpf.map_delete(fd, index.to_bytes(4, "little"))
    try:
        with (
            Arrivals(covered.wire, NEAR, Family.IPV6, protocol) as arrivals,
            node.counting(Family.IPV6),
        ):
            assert arrivals.passes()
    finally:
        node.entries(node.directory).join()
    talk(covered.wire, Family.IPV6, protocol)


def test_a_filter_of_another_program_is_replaced(node: Node, wire: Wire, tmp_path: Path) -> None:
    """A new program takes the place of the old one's filter, on both sides."""
    clsact, index = Clsact(tmp_path), wire.device.ifindex
    programs = node.loaded[Family.IPV4].programs
    names = ("ingress_l3", "ingress_l3", "ingress")

    def replace(parent: int) -> list[tuple[bool, str | None]]:
        wanted = Filter(index, parent)
        return [(clsact.ensure(wanted, programs / n), clsact.tag(wanted)) for n in names]

    tags = [tag(programs / name) for name in names]
    expected = list(zip((True, False, True), tags, strict=True))
    assert wire.inside(lambda: [replace(INGRESS), replace(EGRESS)]) == [expected, expected]
    assert len(wire.filters()) == len(wire.filters("egress")) == 1


def test_a_link_of_another_program_is_updated(node: Node, wire: Wire, tmp_path: Path) -> None:
    """An upgrade swaps programs in place: the same links run the new ones."""
    if not libbpf.tcx_exists():
        return
    with covering(node, wire, tmp_path, tcx=True) as made:
        before = made.attached
        for pin in made.pins:
            with links.opened(pin) as link, links.opened(_l3_of(node, pin)) as other:
                libbpf.link_update(link, other)
        assert made.attach([wire.device]) == {}
        assert made.attached == before
        for pin in made.pins:
            found = links.read(pin)
            side = pin.name.partition("-")[2]
            with links.opened(node.loaded[Family.IPV4].programs / side) as fd:
                assert found
                assert found.program_id == libbpf.program_info(fd).id


def _l3_of(node: Node, pin: Path) -> Path:
    return node.loaded[Family.IPV4].programs / f"{pin.name.partition('-')[2]}_l3"


def test_a_device_that_vanished_is_reported_alone(
    node: Node, wire: Wire, tmp_path: Path, tcx: bool, family: Family
) -> None:
    """A device that is gone when it is attached to is named; the others are covered."""
    node.apply(dropping(family, SERVICE_AT[NEAR]))
    made = Covering(node, wire, tmp_path, tcx=tcx)
    gone = Device(99, "gone", has_link_layer=True)
    try:
        assert list(made.attach([gone, wire.device])) == [gone]
        with Arrivals(wire, NEAR, family, Protocol.TCP) as arrivals:
            assert not arrivals.passes()
    finally:
        made.detach([wire.device])


def covered_spare(wire: Wire, made: Covering) -> Device:
    """Make another device in the near namespace and have it covered too."""
    run_ip(wire.paths[NEAR], "link add spare type veth peer name other")
    (spare,) = wire.inside(lambda: devices(["spare"]))
    assert made.attach([spare]) == {}
    return spare


def test_links_of_a_device_that_vanished_are_forgotten(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """A deleted device's links are unpinned at the next look at the devices, no others."""
    if not libbpf.tcx_exists():
        return
    with covering(node, wire, tmp_path, tcx=True) as made:
        spare = covered_spare(wire, made)
        assert len(made.pins) == 4
        wire.unplug()
        made.forget(wire.inside(devices))
        assert [pin.name for pin in made.pins] == [
            f"{spare.ifindex}-egress",
            f"{spare.ifindex}-ingress",
        ]


def test_programs_do_not_move_to_a_pod_with_a_device(
    node: Node, wire: Wire, tmp_path: Path
) -> None:
    """A CNI makes a pair on the node and moves one end away: once forgotten, it is bare there."""
    if not libbpf.tcx_exists():
        return
    with covering(node, wire, tmp_path, tcx=True) as made:
        spare = covered_spare(wire, made)
        ours = [pin for pin in made.pins if pin.name.startswith(f"{spare.ifindex}-")]
        ids = [found.id for pin in ours if (found := links.read(pin))]
        assert len(ids) == 2
        run_ip(wire.paths[NEAR], f"link set spare netns {wire.paths[FAR]}")
        made.forget(wire.inside(devices))
        assert len(made.pins) == 2

        def are_gone() -> bool:
            return all(bpftool("link", "show", "id", str(number)) is None for number in ids)

        wait_for(are_gone, children.patience_s(), "the links to end")


def test_a_new_device_with_an_old_ifindex_is_covered(
    node: Node, covered: Covering, family: Family
) -> None:
    """A device deleted and another made with its ifindex: the programs are on the new one."""
    wire, old = covered.wire, covered.wire.device
    before = covered.attached
    wire.unplug()
    wire.plug(old.ifindex)
    assert wire.device.ifindex == old.ifindex
    assert covered.attach([wire.device]) == {}
    now = covered.attached
    assert (now.ingress, now.egress) == (before.ingress, before.egress)
    assert not set(now.links) & set(before.links)
    wire.address(FAR)
    wire.address(NEAR)
    node.apply(service(family, SERVICE_AT[NEAR], [1], local=1))
    talk(wire, family, Protocol.TCP)


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


def test_devices_without_link_layer_get_programs_of_their_own(
    node: Node, covered: Covering, family: Family
) -> None:
    """On a tun device the IP header comes first, and that is where it is looked for."""
    with tun(covered.wire) as fd:
        (device,) = covered.wire.inside(lambda: devices(["tun"]))
        assert not device.has_link_layer
        assert covered.attach([device]) == {}
        syn = bare_syn(family)
        node.apply(dropping(family, SERVICE_AT[NEAR]))
        with node.counting(family, packet_drop=1):
            os.write(fd, syn)
        # cut before the flags, which the last 7 bytes of the header begin with
        with node.counting(family):
            os.write(fd, syn[:-7])
        node.apply(service(family, SERVICE_AT[NEAR], [1], local=1), dropping(family, 3))
        with node.counting(family, packet_open=1, packet_in=1):
            os.write(fd, syn)


def bare_syn(family: Family) -> bytes:
    """Return a SYN to the near service without link layer; its checksums count for nobody."""
    tcp = struct.pack("!HHIIBBHHH", 40000, SERVICE_PORT, 1, 0, 5 << 4, 2, 65535, 0, 0)
    src, dst = backend_address(family, 8), service_address(family, SERVICE_AT[NEAR])
    if family is Family.IPV4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + src + dst + tcp
    return struct.pack("!IHBB", 6 << 28, 20, 6, 64) + src + dst + tcp


def test_a_refusal_goes_back_by_the_device(
    node: Node, covered: Covering, family: Family, protocol: Protocol
) -> None:
    """A client of a service without endpoints hears ECONNREFUSED at once."""
    node.apply(refusing(family, SERVICE_AT[NEAR], protocol))
    to = FLAVOURS[family].service(SERVICE_AT[NEAR], SERVICE_PORT)
    with covered.wire.socket(FAR, family, protocol) as client:

        def ask() -> None:
            client.connect(to)
            client.send(b"?")
            client.recv(64)

        with node.counting(family, packet_refused=1):
            assert errno_of(ask) == "ECONNREFUSED"


def test_status_sees_the_programs(node: Node, wire: Wire, tmp_path: Path) -> None:
    """Programs on devices are listed as attached with their tags; what lacks them is named."""
    if not libbpf.tcx_exists():
        return
    pins = node.loaded[Family.IPV4].pins
    assert wire.inside(lambda: inspect.uncovered(pins, [])) == [DEVICE]
    with covering(node, wire, tmp_path, tcx=True):
        assert wire.inside(lambda: inspect.uncovered(pins, [])) == []
        found = wire.inside(lambda: list(inspect.programs(pins, node.cgroup)))
    ours = [each for each in found if each.target == DEVICE]
    assert {each.hook for each in ours} == {"tcx ingress", "tcx egress"}
    assert all(each.attached and each.tag == each.expected for each in found)

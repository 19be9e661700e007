# SPDX-License-Identifier: Apache-2.0
"""Devices come, go and fail; each is covered once, and what fails is told once."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping

import pytest

from pyproxy.agent import cover
from pyproxy.agent.cover import Cover
from pyproxy.errors import MapFullError
from pyproxy.kernel import hops, netlink
from pyproxy.kernel.addresses import FAST, DeviceFacts
from pyproxy.kernel.devices import Device
from pyproxy.kernel.entries import Attached
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.hops import Way
from pyproxy.model import Family
from pyproxy.plan.options import DetectLocalMode, Options

ETH, POD, OTHER = (Device(n, name, True) for n, name in ((2, "eth0"), (3, "pod3"), (4, "pod4")))


HERE = Options("here")
CHECK_S = 30.0
EARLIER, ADDRESS, ROUTED = b"\x0a\0\0\x01", b"\x0a\0\0\x02", b"\xc0\0\2\1"


class Node:
    """The devices of a node, and what the kernel would do: both sides of Entries and PacketPath."""

    def __init__(self) -> None:
        self.devices = [ETH]
        self.failing: dict[Device, str] = {}
        self.vanishing: set[Device] = set()
        self.stripped: set[Device] = set()
        self.log: list[str] = []
        self.now = 1000.0
        self.told: list[list[str]] = []
        self.addresses: dict[bytes, int] = {b"1234": 1}
        self.written: list[dict[bytes, int]] = []
        self.options: list[Options] = []
        self.full = False
        self.asked: set[bytes] = set()
        self.sources: list[set[bytes]] = []
        self.bridging: set[Device] = set()
        self.bridged: list[Collection[Family]] = []
        self.unasked = False
        self.fast_path = FastPath(0)
        self.fast: set[int] = set()

    def find(self, patterns: Iterable[str] = ()) -> list[Device]:
        """Return the devices, or those whose names begin as a pattern does."""
        wanted = tuple(pattern.rstrip("*") for pattern in patterns)
        return [each for each in self.devices if not wanted or each.name.startswith(wanted)]

    def facts(
        self, family: Family, devices: Iterable[Device], _: Options, skipping: Mapping[int, int]
    ) -> dict[int, DeviceFacts]:
        """Return nothing but which devices there are, and by which packets may skip the stack."""
        none = bytes(family.address_bytes)
        return {d.ifindex: DeviceFacts(none, skipping.get(d.ifindex, 0)) for d in devices}

    def skipping_devices(self, _: object, devices: Iterable[Device]) -> dict[int, int]:
        """Stand for kernel.fastpath: FAST are those with programs of ours."""
        if self.unasked:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return {d.ifindex: FAST for d in devices if f"attach {d.name}" in self.log}

    def write_fast_path(self, protocols: FastPath) -> None:
        """Note what may skip the stack."""
        self.fast_path = protocols

    def forget_ways(self) -> None:
        """Note that the stack is to be asked where packets go."""
        self.log.append("ask the stack")

    def bridged_families(
        self, covered: Collection[int], families: Collection[Family]
    ) -> set[Family]:
        """Stand for kernel.bridges: those for which all ports of bridges are covered."""
        ports = {each.ifindex for each in self.bridging}
        return set(families) if ports and ports <= set(covered) else set()

    def write_addresses(self, wanted: dict[bytes, int]) -> None:
        """Stand for PacketPath.write_addresses."""
        if self.full:
            raise MapFullError("node_addresses: the map is full")
        self.written.append(wanted)

    def write_options(self, options: Options) -> None:
        """Stand for PacketPath.write_options."""
        self.options.append(options)

    def write_networks(self, _: object) -> None:
        """Stand for PacketPath.write_networks."""

    def read_asked(self) -> set[bytes]:
        """Stand for PacketPath.read_asked."""
        return self.asked

    def write_hop_sources(self, wanted: dict[Way, bytes]) -> None:
        """Note for which addresses it is said what the node asks them from."""
        self.sources.append({way.to.address for way, source in wanted.items() if source == ROUTED})

    def write_devices(self, facts: dict[int, DeviceFacts]) -> None:
        """Note which devices are described."""
        self.log.append(f"facts {sorted(facts)}")
        self.fast = {index for index, fact in facts.items() if fact.flags & FAST}

    def attach(self, devices: list[Device]) -> Attached:
        """Note to which devices is attached; some fail, some vanish just then."""
        self.log += [f"attach {each.name}" for each in devices]
        gone = {each: "No such device" for each in devices if each in self.vanishing}
        self.devices = [each for each in self.devices if each not in gone]
        failures = gone | {each: why for each, why in self.failing.items() if each in devices}
        return Attached(failures, self.stripped)

    def forget(self, wanted: set[int], others: Iterable[Device]) -> None:
        """Note which devices' programs stay, and which go though the device is there."""
        gone = "".join(f", not {each.name}" for each in others)
        self.log.append(f"keep {sorted(wanted)}{gone}")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node whose devices are what a test says."""
    made = Node()
    monkeypatch.setattr(cover, "devices", made.find)
    monkeypatch.setattr(cover, "device_facts", made.facts)
    monkeypatch.setattr(cover, "bridged_families", made.bridged_families)
    monkeypatch.setattr(cover, "skipping_devices", made.skipping_devices)
    monkeypatch.setattr(cover, "allowed", lambda: FastPath.UDP)
    monkeypatch.setattr(netlink, "hops", lambda _: [])
    monkeypatch.setattr(netlink, "primary_addresses", lambda _: [])
    monkeypatch.setattr(hops, "source_towards", lambda _: ROUTED)
    monkeypatch.setattr(cover, "local_prefixes", lambda *_: [])
    monkeypatch.setattr(cover, "node_addresses", lambda *_: made.addresses)
    return made


def covering(node: Node, *patterns: str, options: Options = HERE) -> Cover:
    """Return what keeps the node covered; what it tells is noted by the node."""
    paths = {Family.IPV4: node}
    made: Cover = Cover(
        node,  # type: ignore[arg-type] # has what Cover uses of Entries
        paths,  # type: ignore[arg-type] # and of PacketPath
        options,
        patterns,
        lambda: node.told.append(made.failures),
        bridged=node.bridged.append,
        check_s=CHECK_S,
        clock=lambda: node.now,
    )
    return made


def test_a_device_is_covered_once(node: Node) -> None:
    """What is described first is attached to then; a second look attaches to what is new alone."""
    made = covering(node)
    made.refresh()
    assert node.log == ["facts [2]", "attach eth0", "keep [2]"]
    node.log.clear()
    node.devices.append(POD)
    made.refresh()
    assert node.log == ["facts [2, 3]", "attach pod3", "keep [2, 3]"]
    node.log.clear()
    made.refresh()
    assert node.log == ["facts [2, 3]", "keep [2, 3]"]
    assert node.told == []


def test_all_devices_are_looked_at_again_now_and_then(node: Node) -> None:
    """Somebody may have deleted a filter, its qdisc or a link, of which no message tells."""
    made = covering(node)
    assert made.refresh() == CHECK_S
    node.log.clear()
    node.now += CHECK_S - 1
    made.refresh()
    assert "attach eth0" not in node.log
    node.now += 1
    made.refresh()
    assert node.log.count("attach eth0") == 1
    made.refresh()
    assert node.log.count("attach eth0") == 1


def test_programs_that_were_taken_off_are_told_of(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a device that counted as covered; on a new one there were none."""
    made = covering(node)
    node.stripped = {ETH}
    made.refresh()
    assert caplog.messages == []
    node.now += CHECK_S
    made.refresh()
    assert caplog.messages == ["programs were gone from eth0: attached again"]


def test_a_device_that_goes_is_forgotten_and_covered_when_it_is_back(node: Node) -> None:
    """Its links are unpinned; a new one of its name and number gets new ones."""
    made = covering(node)
    node.devices.append(POD)
    made.refresh()
    node.devices.remove(POD)
    node.log.clear()
    made.refresh()
    assert node.log == ["facts [2]", "keep [2]"]
    node.devices.append(POD)
    made.refresh()
    assert "attach pod3" in node.log


def test_only_devices_that_are_wanted_are_covered(node: Node) -> None:
    """--devices says which; all are described, for packets leave by others as well."""
    node.devices += [POD, OTHER]
    made = covering(node, "pod*")
    made.refresh()
    attached = ["attach pod3", "attach pod4"]
    assert node.log == ["facts [2, 3, 4]", *attached, "keep [3, 4], not eth0"]


def test_a_device_that_fails_is_told_once_and_tried_again(node: Node) -> None:
    """It is a problem until it works; the others are covered meanwhile."""
    made = covering(node)
    node.devices.append(POD)
    node.failing[POD] = "it has an ingress qdisc"
    made.refresh()
    made.refresh()
    assert node.log.count("attach pod3") == 2
    assert node.log.count("attach eth0") == 1
    assert node.told == [["pod3: it has an ingress qdisc"]]
    node.failing[POD] = "something else"
    made.refresh()
    node.failing.clear()
    made.refresh()
    assert node.told[1:] == [["pod3: something else"], []]
    assert made.failures == []


def test_a_device_that_vanishes_meanwhile_is_no_problem(node: Node) -> None:
    """It is not there any more: nothing is told."""
    made = covering(node)
    node.devices.append(POD)
    node.vanishing.add(POD)
    made.refresh()
    assert "attach pod3" in node.log
    assert node.told == []


def test_a_device_that_failed_and_goes_is_no_problem_any_more(node: Node) -> None:
    """What was told of it is taken back."""
    made = covering(node)
    node.devices.append(POD)
    node.failing[POD] = "it has an ingress qdisc"
    made.refresh()
    node.devices.remove(POD)
    made.refresh()
    assert node.told == [["pod3: it has an ingress qdisc"], []]


def test_addresses_that_cannot_be_written_are_told_of(node: Node) -> None:
    """The devices are covered all the same, and it is tried again soon."""
    made = covering(node)
    node.full = True
    assert made.refresh() == cover.RETRY_S
    assert made.facts_failure == "node_addresses: the map is full"
    assert (made.failures, node.told) == ([], [[]])
    node.full = False
    made.refresh()
    assert made.facts_failure == ""
    assert node.told == [[], []]
    assert node.written == [node.addresses]


def test_what_the_node_asks_addresses_from_is_written(node: Node) -> None:
    """Of its family, of those that an earlier agent knew too, and at once when there are others."""
    node.asked = {EARLIER}
    made = covering(node)
    made.refresh()
    assert node.sources == [{EARLIER}]
    made.ask_from([ADDRESS, bytes(16)])
    assert node.sources[1:] == [{EARLIER, ADDRESS}]
    made.ask_from([bytes(16), ADDRESS])
    assert len(node.sources) == 2
    made.refresh()
    assert node.sources[2:] == [{EARLIER, ADDRESS}]


@pytest.mark.parametrize(
    "options",
    [
        HERE._replace(node_ports_on_primary=True),
        HERE._replace(detect_local_mode=DetectLocalMode.NODE_CIDR),
    ],
)
def test_what_was_known_of_the_node_counts_until_it_is_known_again(
    node: Node, options: Options
) -> None:
    """An agent that starts while the API server is away serves NodePorts where they were served."""
    made = covering(node, options=options)
    made.refresh()
    assert (node.written, node.options) == ([], [])
    # it may turn out that there is nothing to know
    made.use(options)
    assert (node.written, node.options) == ([node.addresses], [options])
    made.use(options)
    assert len(node.options) == 1
    known = options._replace(node_ips=(b"1234",))
    made.use(known)
    assert node.options[-1] == known


def test_pods_on_a_bridge_are_told_of_once_their_devices_are_covered(node: Node) -> None:
    """And not while one is not: what that pod sends would reach no program."""
    node.bridging = {POD}
    node.devices = [ETH, POD]
    made = covering(node)
    made.refresh()
    assert node.bridged == [(), {Family.IPV4}]
    node.devices.append(OTHER)
    node.bridging.add(OTHER)
    node.failing[OTHER] = "no room"
    made.refresh()
    assert node.bridged[2:] == [(), set()]


def test_bridges_that_cannot_be_asked_for_count_as_none(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sockets are translated then."""

    def fail(*_: object) -> set[Family]:
        raise OSError(105, "No buffer space available")

    monkeypatch.setattr(cover, "bridged_families", fail)
    covering(node).refresh()
    assert node.bridged[-1] == ()
    assert "No buffer space available" in caplog.text


FAST_HERE = HERE._replace(fast_path=True)


def test_packets_skip_the_stack_where_programs_are(node: Node) -> None:
    """The stack is asked anew before all else; a device counts once there are programs on it."""
    covering(node, options=FAST_HERE).refresh()
    assert node.log == ["ask the stack", "facts [2]", "attach eth0", "keep [2]", "facts [2]"]
    assert (node.fast, node.fast_path) == ({ETH.ifindex}, FastPath.UDP)


def test_no_packet_skips_the_stack_by_default(node: Node) -> None:
    """Nothing is asked for it either."""
    node.fast_path = FastPath.UDP
    covering(node).refresh()
    assert (node.fast, node.fast_path) == (set(), FastPath(0))


def test_who_else_is_on_a_device_cannot_be_asked(node: Node) -> None:
    """Then no packet skips the stack, and what else is known of devices is written."""
    node.unasked = True
    made = covering(node, options=FAST_HERE)
    assert made.refresh() == cover.RETRY_S
    assert "fastPath" in made.facts_failure
    assert "facts [2]" in node.log
    assert node.fast == set()
    node.unasked = False
    made.refresh()
    assert made.facts_failure == ""
    assert node.fast == {ETH.ifindex}

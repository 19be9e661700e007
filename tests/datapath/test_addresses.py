# SPDX-License-Identifier: Apache-2.0
"""What is read of real devices: their addresses, and which of them lead out of the node."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import netlink
from pyproxy.kernel.addresses import (
    IPVS_DEVICE,
    NODE,
    PODS,
    PORT,
    UPLINK,
    DeviceFacts,
    device_facts,
    local_prefixes,
    node_addresses,
    node_networks,
)
from pyproxy.kernel.bridges import bridged_families
from pyproxy.kernel.devices import devices
from pyproxy.kernel.hops import hop_sources
from pyproxy.model import Family
from pyproxy.plan.options import DetectLocalMode, Options
from tests.datapath.node import run_ip
from tests.datapath.test_rule_15 import tentative
from tests.lab import netns
from tests.lab.waiting import wait_for

IPV4, IPV6 = Family
HERE = Options("here")


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Path]:
    """A namespace with the devices one, two (up, joined) and bare (down), and no address."""
    path = tmp_path / "bare"
    netns.create(path, {})
    with ExitStack() as undo:
        undo.callback(path.unlink)
        undo.callback(netns.unmount, path)
        run_ip(
            path,
            "link set lo up",
            "link add one type veth peer name two",
            "link add bare type veth peer name end",
            "link set one up",
            "link set two up",
        )
        yield path


def unsettled(device: str) -> list[str]:
    """Return the addresses of a device that must not be used yet."""
    return [line for line in tentative() if line.split()[-1] == device]


def facts(namespace: Path, family: Family, options: Options = HERE) -> dict[str, DeviceFacts]:
    """Return what is known of devices by name, and of the node by "node"."""

    def work() -> dict[str, DeviceFacts]:
        present = devices()
        found = device_facts(family, present, options)
        names = {device.ifindex: device.name for device in present} | {NODE: "node"}
        return {names[index]: each for index, each in found.items()}

    return netns.inside(namespace, work)


def packed(text: str) -> bytes:
    """Return an address in network order."""
    return ipaddress.ip_address(text).packed


def test_devices_without_addresses(namespace: Path, family: Family) -> None:
    """Every device is there, with no address (an IPv6 link-local one is none), no uplink."""
    nothing = DeviceFacts(bytes(family.address_bytes), 0)
    expected = dict.fromkeys(("one", "two", "bare", "end"), nothing)
    assert facts(namespace, family) == expected


def test_of_several_ipv4_addresses_the_primary_is_taken(namespace: Path) -> None:
    """The kernel's own choice for a device: the first, until it goes."""
    run_ip(
        namespace,
        "addr add 10.3.0.9/24 dev one",
        "addr add 10.3.0.1/24 dev one",
        "addr add 10.4.0.1/24 dev two",
    )
    found = facts(namespace, IPV4)
    assert found["one"].source == packed("10.3.0.9")
    assert found["two"].source == packed("10.4.0.1")
    run_ip(namespace, "addr del 10.3.0.9/24 dev one")
    # its secondary addresses went with it (net.ipv4.conf.*.promote_secondaries is off)
    assert facts(namespace, IPV4)["one"].source in {bytes(4), packed("10.3.0.1")}


def test_ipv6_addresses_that_are_not_to_be_used(namespace: Path) -> None:
    """Deprecated and tentative ones are passed over, for one that is neither."""
    run_ip(
        namespace,
        "addr add fd03::d/64 dev one nodad preferred_lft 0",
        # no carrier: detection of duplicates waits for one, and the address stays tentative
        "link set bare up",
        "addr add fd04::1/64 dev bare",
    )
    found = facts(namespace, IPV6)
    assert found["one"].source == found["bare"].source == bytes(16)
    assert "node" not in found
    run_ip(namespace, "addr add fd03::9/64 dev one nodad")
    found = facts(namespace, IPV6)
    assert found["one"].source == found["node"].source == packed("fd03::9")


NETS = {IPV4: ("10.3.0.", "10.4.0.", "10.5.0.0/24"), IPV6: ("fd03::", "fd04::", "fd05::/64")}


def with_addresses(
    namespace: Path, family: Family, device: str = "one", other: str = "two"
) -> tuple[str, str, str]:
    """Give two devices an address each; return their gateways, and a network elsewhere."""
    one, two, elsewhere = NETS[family]
    length, dad = (24, "") if family is IPV4 else (64, " nodad")
    run_ip(
        namespace,
        f"addr add {one}1/{length} dev {device}{dad}",
        f"addr add {two}1/{length} dev {other}{dad}",
    )
    return f"{one}2", f"{two}2", elsewhere


def uplinks(found: dict[str, DeviceFacts]) -> set[str]:
    """Return the devices that lead out."""
    return {name for name, each in found.items() if each.flags & UPLINK}


def test_a_default_route_makes_an_uplink_and_the_nodes_address(
    namespace: Path, family: Family
) -> None:
    """Whichever device it leads by: that one's address counts, not the first one there is."""
    gateways = dict(zip(("one", "two"), with_addresses(namespace, family), strict=False))
    found = facts(namespace, family)
    assert uplinks(found) == set()
    assert found["node"].source in {found[name].source for name in gateways}
    for name, gateway in gateways.items():
        run_ip(namespace, f"route add default via {gateway}")
        found = facts(namespace, family)
        assert uplinks(found) == {name}
        assert found["node"].source == found[name].source != bytes(family.address_bytes)
        run_ip(namespace, f"route del default via {gateway}")


def test_of_two_default_routes_the_better_one_counts(namespace: Path, family: Family) -> None:
    """The one with the lower metric; both devices are uplinks."""
    one, two, _ = with_addresses(namespace, family)
    for better, worse, name in ((one, two, "one"), (two, one, "two")):
        lines = [
            f"route add default via {better} metric 100",
            f"route add default via {worse} metric 200",
        ]
        run_ip(namespace, *lines)
        found = facts(namespace, family)
        assert uplinks(found) == {"one", "two"}
        assert found["node"].source == found[name].source
        run_ip(namespace, *(line.replace("add", "del") for line in lines))


@pytest.mark.parametrize("named", [True, False])
def test_a_node_whose_addresses_are_on_loopback(
    namespace: Path, family: Family, named: bool
) -> None:
    """It takes part in routing, and its uplink has none: what the route names, or the first one.

    Neither an address of another device, which nobody elsewhere may know.
    """
    # the kernel has the oldest one of IPv4 first, and the newest of IPv6
    four, six = ("10.9.0.1", "10.9.0.2", "172.17.0.1/16"), ("fd09::2", "fd09::1", "fd17::1/64")
    first, second, other = four if family is IPV4 else six
    added = (first, second) if family is IPV4 else (second, first)
    bits = 8 * family.address_bytes
    everywhere, dad = ("0.0.0.0/0", "") if family is IPV4 else ("::/0", " nodad")
    run_ip(
        namespace,
        f"addr add {other} dev two{dad}",
        *(f"addr add {address}/{bits} dev lo" for address in added),
    )
    # no route may name one before
    netns.inside(namespace, lambda: wait_for(lambda: not unsettled("lo"), 10, "lo's addresses"))
    run_ip(namespace, f"route add {everywhere} dev one{f' src {second}' if named else ''}")
    found = facts(namespace, family)
    assert uplinks(found) == {"one"}
    assert found["node"].source == packed(second if named else first)


def test_a_route_to_one_network_makes_an_uplink(namespace: Path, family: Family) -> None:
    """Other nodes' pods are reached so; a route without a gateway says nothing."""
    _, gateway, elsewhere = with_addresses(namespace, family)
    run_ip(namespace, f"route add {elsewhere} dev one")
    assert uplinks(facts(namespace, family)) == set()
    run_ip(namespace, f"route replace {elsewhere} via {gateway}")
    assert uplinks(facts(namespace, family)) == {"two"}


def test_a_device_that_comes_and_one_that_goes(namespace: Path, family: Family) -> None:
    """What is not there any more is not in what is known."""
    with_addresses(namespace, family)
    run_ip(namespace, "link add late type veth peer name latest", "link del one")
    assert set(facts(namespace, family)) == {"bare", "end", "late", "latest"}


def test_every_next_hop_leads_out(namespace: Path, family: Family) -> None:
    """Also of a route that has several, as ECMP fabrics do."""
    one, two, _ = with_addresses(namespace, family)
    way = f"nexthop via {one} dev one nexthop via {two} dev two"
    run_ip(namespace, f"route add default {way}")
    assert uplinks(facts(namespace, family)) == {"one", "two"}


@pytest.mark.parametrize("is_default", [True, False])
def test_what_a_default_uplink_is_made_of_leads_out(
    namespace: Path, family: Family, *, is_default: bool
) -> None:
    """A bond's devices and a bridge's ports get packets before it does.

    Ports of pods do not lead out, nor do those of a bridge by which some network is reached: a
    bridge of pods may do so, where one of them is a router.
    """
    run_ip(
        namespace,
        "link add bridge type bridge",
        "link add outside type vxlan id 7 dstport 4789 dev bare",
        "link set outside master bridge",
        "link set two master bridge",
        "link set bridge up",
        "link set bare up",
    )
    gateway, _, elsewhere = with_addresses(namespace, family, "bridge", "one")
    to = "default" if is_default else elsewhere
    run_ip(namespace, f"route add {to} via {gateway}")
    expected = {"bridge", "outside"} if is_default else {"bridge"}
    assert uplinks(facts(namespace, family)) == expected


def test_networks_that_are_local_as_a_whole(namespace: Path, family: Family) -> None:
    """They are told from addresses, and those of ipvs mode's own device are nobody's."""
    with_addresses(namespace, family)
    mine, theirs, address = (
        ("10.7.0.0/24", "10.8.0.0/24", "10.3.0.1")
        if family is IPV4
        else ("fd07::/64", "fd08::/64", "fd03::1")
    )
    run_ip(
        namespace,
        f"link add {IPVS_DEVICE} type veth peer name unused",
        f"link set {IPVS_DEVICE} up",
        f"route add local {mine} dev lo",
        f"route add local {theirs} dev {IPVS_DEVICE}",
    )
    found = netns.inside(namespace, lambda: local_prefixes(family, devices()))
    assert packed(address) in node_addresses(found, Options("here"))
    (network,) = node_networks(found, Options("here"))
    assert ipaddress.ip_network((network.address, network.length)) == ipaddress.ip_network(mine)


def test_everything_may_be_local(namespace: Path, family: Family) -> None:
    """A route without a destination, as transparent proxies have one in a table of their own."""
    everything = "0.0.0.0/0" if family is IPV4 else "::/0"
    run_ip(namespace, f"route add local {everything} dev lo table 100")
    found = netns.inside(namespace, lambda: local_prefixes(family, devices()))
    assert not node_networks(found, Options("here"))


OF_BRIDGE = {IPV4: "10.9.0.1/24", IPV6: "fd00:9::1/64 nodad"}


def bridged(namespace: Path, *uncovered: str) -> set[Family]:
    """Return for which families pods share a bridge, if but these devices are covered."""

    def work() -> set[Family]:
        covered = {each.ifindex for each in devices() if each.name not in uncovered}
        return bridged_families(covered, [IPV4, IPV6])

    return netns.inside(namespace, work)


def test_pods_on_a_bridge(namespace: Path, family: Family) -> None:
    """All of its ports have to be theirs, and covered; it has to have an address."""
    assert bridged(namespace) == set()
    run_ip(namespace, "link add bridge type bridge", "link set bridge up")
    run_ip(namespace, f"address add dev bridge {OF_BRIDGE[family]}")
    assert bridged(namespace) == set()
    run_ip(namespace, "link set two master bridge")
    assert bridged(namespace) == {family}
    assert bridged(namespace, "two") == set()
    assert bridged(namespace, "one") == {family}
    run_ip(namespace, "link add overlay type vxlan id 7 dstport 4789 dev bare")
    run_ip(namespace, "link set overlay master bridge")
    assert bridged(namespace) == set()


def test_pods_on_several_bridges(namespace: Path, family: Family) -> None:
    """Nobody knows which a socket is of; one without pods counts for nothing."""
    run_ip(namespace, "link add bridge type bridge", "link set two master bridge")
    run_ip(namespace, f"address add dev bridge {OF_BRIDGE[family]}", "link set bridge up")
    run_ip(namespace, "link add other type bridge")
    assert bridged(namespace) == {family}
    run_ip(namespace, "link set bare master other")
    assert bridged(namespace) == set()


def test_a_device_with_addresses_in_two_subnets(namespace: Path, family: Family) -> None:
    """Packets to a gateway come from an address in the gateway's subnet (rule 8)."""
    one, two, elsewhere = NETS[family]
    length, dad = (24, "") if family is IPV4 else (64, " nodad")
    run_ip(
        namespace,
        f"addr add {one}1/{length} dev one{dad}",
        f"addr add {two}1/{length} dev one{dad}",
        f"addr add {two}9/{length} dev one{dad}",
        f"route add {elsewhere} via {two}2",
    )

    def work() -> dict[str, str]:
        found = hop_sources(netlink.primary_addresses(family), netlink.hops(family))
        return {
            f"{ipaddress.ip_address(way.to.address)}/{way.to.length}": str(
                ipaddress.ip_address(source)
            )
            for way, source in found.items()
        }

    found = netns.inside(namespace, work)
    assert found[elsewhere] in {f"{two}1", f"{two}9"}
    assert found[elsewhere] == found[str(ipaddress.ip_network(f"{two}1/{length}", strict=False))]
    assert found[str(ipaddress.ip_network(f"{one}1/{length}", strict=False))] == f"{one}1"
    if family is IPV4:  # IPv6 addresses are listed with the last one first
        assert found[elsewhere] == f"{two}1"
    assert len(found) == 3


def test_what_the_kernel_sends_from(namespace: Path, family: Family) -> None:
    """By what a route says, by the subnet, by a rule's table; nothing where no route leads."""
    one, two, elsewhere = NETS[family]
    length, dad = (24, "") if family is IPV4 else (64, " nodad")
    inet = "-4" if family is IPV4 else "-6"
    said, ruled, nowhere = (str(ipaddress.ip_network(elsewhere)[n]) for n in (5, 6, 7))
    run_ip(
        namespace,
        f"addr add {one}1/{length} dev one{dad}",
        f"addr add {two}1/{length} dev one{dad}",
        f"route add {said} via {one}2 src {two}1",
        f"route add {ruled} via {one}2 src {two}1 table 77",
        f"route add unreachable {one}7",
    )
    rule = ["ip", inet, "rule", "add", "to", ruled, "table", "77"]
    subprocess.run(["nsenter", f"--net={namespace}", *rule], check=True)

    def work() -> list[str]:
        return [
            str(ipaddress.ip_address(found))
            if (found := netlink.source_towards(packed(to)))
            else ""
            for to in (f"{one}2", f"{two}2", said, ruled, f"{one}1", f"{one}7", nowhere)
        ]

    found = netns.inside(namespace, work)
    assert found == [f"{one}1", f"{two}1", f"{two}1", f"{two}1", f"{one}1", "", ""]


def test_ports_know_their_bridge(namespace: Path, family: Family) -> None:
    """A pod's has the bridge's address as long as it belongs there; others do not ask for it."""
    run_ip(
        namespace,
        "link add shared address 02:00:00:00:00:07 type bridge",
        "link set one master shared",
    )
    found = facts(namespace, family)
    assert {name for name, each in found.items() if each.flags & PORT} == {"one"}
    assert found["one"].bridge == bytes.fromhex("020000000007")
    run_ip(namespace, "link set shared address 02:00:00:00:00:08")
    assert facts(namespace, family)["one"].bridge == bytes.fromhex("020000000008")
    run_ip(namespace, "link set one nomaster")
    assert facts(namespace, family)["one"] == DeviceFacts(bytes(family.address_bytes), 0)


def test_netfilter_names_the_bridge(namespace: Path, family: Family) -> None:
    """Whose clients are pods by their interface is said of the bridge, not of its ports."""
    run_ip(namespace, "link add shared type bridge", "link set one master shared")
    options = HERE._replace(detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX)
    for prefix, pods in (("sha", {"shared", "one"}), ("on", set())):
        found = facts(namespace, family, options._replace(local_interface=prefix))
        assert {name for name, each in found.items() if each.flags & PODS} == pods

# SPDX-License-Identifier: Apache-2.0
"""What /proc/net and routes say of devices; real ones are in tests/datapath/test_addresses.py."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from pyproxy.kernel import addresses, netlink
from pyproxy.kernel.addresses import (
    NODE,
    UPLINK,
    DeviceFacts,
    NodeAddressFlag,
    device_facts,
    node_networks,
)
from pyproxy.kernel.devices import Device
from pyproxy.kernel.netlink import Hop, Port
from pyproxy.model import Family, Prefix
from pyproxy.plan.options import Options

# no machine has devices of these names
ONE, TWO, THREE = (Device(n, f"pyproxy-no{n}", True) for n in (1, 2, 3))
NAMES = {"one": ONE.name, "two": TWO.name, "three": THREE.name}

TEMPORARY, DAD_FAILED, DEPRECATED, TENTATIVE, PERMANENT = 0x01, 0x08, 0x20, 0x40, 0x80
GLOBAL, LINK, SITE = 0x00, 0x20, 0x40

HERE = Options("here")
PORTS = NodeAddressFlag.PORTS


def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *hops: Hop, **files: str) -> None:
    """Let /proc/net have these files and no others, and routes these next hops."""
    monkeypatch.setattr(addresses, "PROC_NET", tmp_path)
    monkeypatch.setattr(netlink, "hops", lambda *_: list(hops))
    monkeypatch.setattr(netlink, "ports", lambda _: [])
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")


def address(text: str, name: str, *, scope: int = GLOBAL, flags: int = PERMANENT) -> str:
    """Return a line of if_inet6."""
    packed = ipaddress.IPv6Address(text).packed.hex()
    return f"{packed} 02 40 {scope:02x} {flags:02x} {NAMES[name]:>15}\n"


def default(device: Device, metric: int = 1024) -> Hop:
    """Return a default route's next hop."""
    return Hop(device.ifindex, is_default=True, metric=metric)


def gateway(device: Device) -> Hop:
    """Return the next hop of a route to some network."""
    return Hop(device.ifindex, is_default=False, metric=1024)


def six(text: str) -> bytes:
    """Return an address in network order."""
    return ipaddress.IPv6Address(text).packed


def test_ipv6_addresses_that_may_stand_for_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first global address that lasts; none that is on its way in or out, and no link's."""
    lines = [
        address("fe80::1", "one", scope=LINK),
        *(
            address(f"2001:db8::{flag:x}", "one", flags=PERMANENT | flag)
            for flag in (TEMPORARY, DAD_FAILED, DEPRECATED, TENTATIVE)
        ),
        address("2001:db8::a", "one"),
        address("2001:db8::b", "one"),
        address("fec0::1", "two", scope=SITE),
        address("fd00::1", "two"),
        address("fe80::3", "three", scope=LINK),
    ]
    proc(tmp_path, monkeypatch, if_inet6="".join(lines))
    assert device_facts(Family.IPV6, [ONE, TWO, THREE], HERE) == {
        1: DeviceFacts(six("2001:db8::a"), 0),
        2: DeviceFacts(six("fd00::1"), 0),
        3: DeviceFacts(bytes(16), 0),
        NODE: DeviceFacts(six("2001:db8::a"), 0),
    }


@pytest.mark.parametrize("metrics", [(100, 1024), (1024, 100)], ids=["two-best", "three-best"])
def test_the_nodes_address_is_where_the_best_default_route_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: tuple[int, int]
) -> None:
    """The lowest metric decides; devices with gateways are uplinks, others not."""
    text = "".join(address(f"fd00::{n}", name) for n, name in enumerate(NAMES, start=1))
    hops = (default(TWO, metrics[0]), default(THREE, metrics[1]))
    proc(tmp_path, monkeypatch, *hops, if_inet6=text)
    found = device_facts(Family.IPV6, [ONE, TWO, THREE], HERE)
    assert [found[n].flags for n in (1, 2, 3)] == [0, UPLINK, UPLINK]
    best = 2 if metrics[0] < metrics[1] else 3
    assert found[NODE].source == found[best].source == six(f"fd00::{best}")


def test_a_default_route_by_a_device_without_address_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then devices with other gateway routes, then any device that has an address."""
    text = address("fd00::1", "one") + address("fd00::3", "three")
    proc(tmp_path, monkeypatch, gateway(THREE), default(TWO), if_inet6=text)
    assert device_facts(Family.IPV6, [ONE, TWO, THREE], HERE)[NODE].source == six("fd00::3")
    proc(tmp_path, monkeypatch, default(TWO))
    assert device_facts(Family.IPV6, [ONE, TWO, THREE], HERE)[NODE].source == six("fd00::1")


def test_uplinks_and_what_the_default_ones_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bond upon a bridge, whose ports are a physical device and a pod's; circles end.

    What another bond is made of counts as well, whatever it is, and no port of another bridge.
    """
    bond, bridge, port, pod, other, slave, unknown = range(1, 8)
    devices = [Device(n, f"pyproxy-no{n}", True) for n in range(1, 8)]
    hops = [Hop(bond, is_default=True, metric=0), Hop(other, is_default=False, metric=0)]
    proc(tmp_path, monkeypatch, *hops)
    ports = {
        port: [Port(bond, "bond")], bond: [Port(bridge, "bridge", "bond")],
        bridge: [Port(port, ""), Port(pod, "veth")],
        other: [Port(slave, "veth", "bond"), Port(unknown, "")],
    }  # fmt: skip
    monkeypatch.setattr(netlink, "ports", lambda master: ports.get(master, []))
    found = device_facts(Family.IPV4, devices, HERE)
    uplinks = {number for number, facts in found.items() if facts.flags & UPLINK}
    assert uplinks == {bond, bridge, port, other, slave}


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
def test_a_kernel_without_a_family_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    """Without the files every device is one without address and routes."""
    proc(tmp_path, monkeypatch)
    assert device_facts(family, [ONE], HERE) == {1: DeviceFacts(bytes(family.address_bytes), 0)}


NETWORKS = {
    Prefix(six("fd07::"), 64),
    Prefix(six("fd00::1"), 128),
    Prefix(six("::"), 0),
    Prefix(bytes((10, 7, 0, 0)), 24),
    Prefix(bytes((127, 0, 0, 0)), 8),
    Prefix(bytes((10, 7, 0, 1)), 32),
}


def test_whole_networks_serve_node_ports_where_every_address_does() -> None:
    """Loopback's is not one of them, nor is an address (parity A7.1, A7.5)."""
    assert node_networks(NETWORKS, HERE) == {
        Prefix(six("fd07::"), 64): PORTS,
        Prefix(six("::"), 0): PORTS,
        Prefix(bytes((10, 7, 0, 0)), 24): PORTS,
    }


def test_cidrs_name_addresses_of_interfaces() -> None:
    """Of either family alone; a CIDR that holds everything names all that is local (A7.1)."""
    only = HERE._replace(node_port_addresses=(Prefix(bytes((10, 7, 0, 0)), 16),))
    served = {each for each, flags in node_networks(NETWORKS, only).items() if flags & PORTS}
    assert {len(each.address) for each in served} == {16}
    assert node_networks(NETWORKS, only).keys() == node_networks(NETWORKS, HERE).keys()
    everything = HERE._replace(node_port_addresses=(Prefix(bytes(4), 0),))
    assert node_networks(NETWORKS, everything) == node_networks(NETWORKS, HERE)

# SPDX-License-Identifier: Apache-2.0
"""What /proc/net says of devices; real ones are in tests/datapath/test_addresses.py."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from pyproxy.kernel import addresses
from pyproxy.kernel.addresses import NODE, UPLINK, DeviceFacts, device_facts
from pyproxy.kernel.devices import Device
from pyproxy.model import Family

# no machine has devices of these names
ONE, TWO, THREE = (Device(n, f"pyproxy-no{n}", True) for n in (1, 2, 3))
NAMES = {"one": ONE.name, "two": TWO.name, "three": THREE.name}
HEAD = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"

TEMPORARY, DAD_FAILED, DEPRECATED, TENTATIVE, PERMANENT = 0x01, 0x08, 0x20, 0x40, 0x80
GLOBAL, LINK, SITE = 0x00, 0x20, 0x40


def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Let /proc/net have these files and no others."""
    monkeypatch.setattr(addresses, "PROC_NET", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")


def address(text: str, name: str, *, scope: int = GLOBAL, flags: int = PERMANENT) -> str:
    """Return a line of if_inet6."""
    packed = ipaddress.IPv6Address(text).packed.hex()
    return f"{packed} 02 40 {scope:02x} {flags:02x} {NAMES[name]:>15}\n"


def route(to: str, name: str, *, via: str = "::", metric: int = 1024) -> str:
    """Return a line of ipv6_route."""
    net, gateway = ipaddress.IPv6Network(to), ipaddress.IPv6Address(via)
    flags = 0x01 | (0x02 if via != "::" else 0)
    zero = "0" * 32
    return (
        f"{net.network_address.packed.hex()} {net.prefixlen:02x} {zero} 00 {gateway.packed.hex()}"
        f" {metric:08x} 00000001 00000000 {flags:08x} {NAMES[name]}\n"
    )


def route4(to: str, mask: str, name: str, *, via: str = "00000000", metric: int = 0) -> str:
    """Return a line of route; addresses as the kernel prints them, words of the machine."""
    flags = 0x01 | (0x02 if via != "00000000" else 0)
    return f"{NAMES[name]} {to} {via} {flags:04X} 0 0 {metric} {mask} 0 0 0\n"


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
    assert device_facts(Family.IPV6, [ONE, TWO, THREE]) == {
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
    routes = [
        route("::/0", "two", via="fd00::f2", metric=metrics[0]),
        route("::/0", "three", via="fd00::f3", metric=metrics[1]),
        route("fd01::/64", "one"),
    ]
    proc(tmp_path, monkeypatch, if_inet6=text, ipv6_route="".join(routes))
    found = device_facts(Family.IPV6, [ONE, TWO, THREE])
    assert [found[n].flags for n in (1, 2, 3)] == [0, UPLINK, UPLINK]
    best = 2 if metrics[0] < metrics[1] else 3
    assert found[NODE].source == found[best].source == six(f"fd00::{best}")


def test_a_default_route_by_a_device_without_address_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then devices with other gateway routes, then any device that has an address."""
    text = address("fd00::1", "one") + address("fd00::3", "three")
    routes = route("::/0", "two", via="fe80::f") + route("fd03::/64", "three", via="fe80::f")
    proc(tmp_path, monkeypatch, if_inet6=text, ipv6_route=routes)
    assert device_facts(Family.IPV6, [ONE, TWO, THREE])[NODE].source == six("fd00::3")
    proc(tmp_path, monkeypatch, ipv6_route=route("::/0", "two", via="fe80::f"))
    assert device_facts(Family.IPV6, [ONE, TWO, THREE])[NODE].source == six("fd00::1")


def test_ipv4_routes_through_gateways_make_uplinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default route, a route to one network, and a route without a gateway."""
    lines = [
        route4("00000000", "00000000", "one", via="0100020A", metric=100),
        route4("0000030A", "00FFFFFF", "two", via="0100020A"),
        route4("0000040A", "00FFFFFF", "three"),
    ]
    proc(tmp_path, monkeypatch, route=HEAD + "".join(lines))
    found = device_facts(Family.IPV4, [ONE, TWO, THREE])
    assert found == {
        1: DeviceFacts(bytes(4), UPLINK),
        2: DeviceFacts(bytes(4), UPLINK),
        3: DeviceFacts(bytes(4), 0),
    }


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
def test_a_kernel_without_a_family_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    """Without the files every device is one without address and routes."""
    proc(tmp_path, monkeypatch)
    assert device_facts(family, [ONE]) == {1: DeviceFacts(bytes(family.address_bytes), 0)}

# SPDX-License-Identifier: Apache-2.0
"""Which of a device's addresses stands for clients on the way to a next hop (rule 8)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kernel import hops
from pyproxy.kernel.addresses import NODE
from pyproxy.kernel.hops import Way, hop_sources
from pyproxy.kernel.netlink import Hop, Own
from pyproxy.model import Prefix
from pyproxy.plan.cidr import in_any, masked


def ip(text: str) -> bytes:
    """Return an address in network order."""
    return ipaddress.ip_address(text).packed


def net(text: str) -> Prefix:
    """Return a CIDR."""
    found = ipaddress.ip_network(text)
    return Prefix(found.network_address.packed, found.prefixlen)


ONE = Own(2, ip("10.1.0.5"), 24)
TWO = Own(2, ip("10.2.0.5"), 24)
TWO_AGAIN = Own(2, ip("10.2.0.6"), 24)
OTHER = Own(3, ip("10.3.0.5"), 24)
DEFAULT = Hop(2, is_default=True, metric=0, to=net("0.0.0.0/0"), gateway=ip("10.2.0.1"))
SUBNETS = {Way(2, net("10.1.0.0/24")): ONE.address, Way(2, net("10.2.0.0/24")): TWO.address}


# the larger network says the same of the second subnet
BY_DEFAULT = {
    Way(2, net("0.0.0.0/0")): TWO.address,
    Way(2, net("10.1.0.0/24")): ONE.address,
}


def test_a_device_with_one_address_has_no_choice() -> None:
    """Most devices: nothing is written for them."""
    assert hop_sources([ONE, OTHER], [DEFAULT]) == {}


def test_each_subnet_has_its_first_address() -> None:
    """What is reached without a gateway."""
    assert hop_sources([ONE, TWO, TWO_AGAIN, OTHER], []) == SUBNETS


def test_a_gateway_is_in_a_subnet() -> None:
    """Packets by it come from there, whichever address is the device's first."""
    assert hop_sources([ONE, TWO, TWO_AGAIN], [DEFAULT]) == BY_DEFAULT


def test_the_first_of_two_routes_counts() -> None:
    """A second way to the same network has a worse metric, or is another next hop."""
    second = DEFAULT._replace(gateway=ip("10.1.0.1"))
    found = hop_sources([ONE, TWO], [DEFAULT, second])
    assert found[Way(2, net("0.0.0.0/0"))] == TWO.address


def test_a_gateway_that_is_nowhere_says_nothing() -> None:
    """An on-link gateway elsewhere, one of the other family, or none: the first address counts."""
    for gateway in (ip("10.9.0.1"), ip("fd00::1"), b""):
        assert hop_sources([ONE, TWO], [DEFAULT._replace(gateway=gateway)]) == SUBNETS


def test_ipv6() -> None:
    """The same, with longer addresses."""
    own = [Own(2, ip("fd01::5"), 64), Own(2, ip("fd02::5"), 64)]
    hop = Hop(2, is_default=True, metric=0, to=net("::/0"), gateway=ip("fd02::1"))
    assert hop_sources(own, [hop])[Way(2, net("::/0"))] == ip("fd02::5")


def test_ipv6_gateways_have_link_local_addresses() -> None:
    """What is in no subnet comes from an address of its kind (RFC 6724)."""
    world, local = Own(2, ip("2001:db8:1::5"), 64), Own(2, ip("fd01::5"), 64)
    hop = Hop(2, is_default=True, metric=0, to=net("::/0"), gateway=ip("fe80::1"))
    expected = {
        Way(2, net("fc00::/7")): local.address,
        Way(2, net("2000::/3")): world.address,
    }
    assert hop_sources([world, local], [hop]) == hop_sources([local, world], [hop]) == expected


def test_what_a_larger_network_says_as_well_is_left_out() -> None:
    """Clusters whose pods are announced by BGP have a route for each node."""
    near = [DEFAULT._replace(to=net(f"10.9.{n}.0/24")) for n in range(200)]
    other = DEFAULT._replace(to=net("10.9.7.0/26"), gateway=ip("10.1.0.1"))
    found = hop_sources([ONE, TWO], [DEFAULT, *near, other])
    assert found == BY_DEFAULT | {Way(2, net("10.9.7.0/26")): ONE.address}


@given(
    st.dictionaries(
        st.builds(
            lambda number, length: Way(2, masked(bytes([number, 0, 0, 0]), length)),
            st.integers(0, 255),
            st.integers(0, 9),
        ),
        st.sampled_from([ONE.address, TWO.address]),
    ),
    st.integers(0, 255),
)
def test_nothing_that_is_left_out_matters(ways: dict[Way, bytes], number: int) -> None:
    """The longest prefix says the same of every address."""
    to = bytes([number, 128, 0, 0])

    def said(by: dict[Way, bytes]) -> bytes:
        matching = [(way.to.length, source) for way, source in by.items() if in_any(to, [way.to])]
        return max(matching, default=(0, b""))[1]

    assert said(hops.needed(ways)) == said(ways)


def test_a_device_knows_nothing_of_the_networks_of_another() -> None:
    """Though both say the same."""
    again = [each._replace(ifindex=3) for each in (ONE, TWO)]
    default = DEFAULT._replace(ifindex=3)
    found = hop_sources([ONE, TWO, *again], [DEFAULT, default])
    assert {way for way in found if way.ifindex == 3} == {
        way._replace(ifindex=3) for way in hop_sources([ONE, TWO], [DEFAULT])
    }


def test_addresses_that_no_route_leads_to_are_asked_from_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the kernel says of the others holds for the very address."""
    known = {ip("10.8.0.1"): ONE.address, ip("fd08::1"): ip("fd01::5")}
    monkeypatch.setattr(hops, "source_towards", lambda asked: known.get(asked, b""))
    assert hops.own_sources([*known, ip("10.8.0.2")]) == {
        Way(NODE, net("10.8.0.1/32")): ONE.address,
        Way(NODE, net("fd08::1/128")): ip("fd01::5"),
    }

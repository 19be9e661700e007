# SPDX-License-Identifier: Apache-2.0
"""Which of a device's addresses stands for clients on the way to a next hop (rule 8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kernel.addresses import NODE
from pyproxy.kernel.hops import Way, hop_sources, needed
from pyproxy.kernel.netlink import Hop, Own
from pyproxy.model import Prefix
from pyproxy.plan.cidr import contains, masked


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
BY_OTHER = Hop(3, is_default=False, metric=0, to=net("10.9.0.0/16"), gateway=ip("10.3.0.1"))


def chosen(found: Mapping[Way, bytes], ifindex: int, to: str) -> str:
    """Return the address on the way to another one, as the LPM trie finds it; "" for the usual."""
    matching = [
        (way.to.length, address)
        for way, address in found.items()
        if way.ifindex == ifindex and contains(way.to, ip(to))
    ]
    return str(ipaddress.ip_address(max(matching)[1])) if matching else ""


def test_where_there_is_one_address_there_is_no_choice() -> None:
    """Most nodes: nothing is written for them."""
    assert hop_sources([ONE], [DEFAULT]) == {}


def test_a_device_with_one_address_has_no_choice() -> None:
    """The node's own processes have one, between two devices."""
    found = hop_sources([ONE, OTHER], [DEFAULT, BY_OTHER])
    assert {way.ifindex for way in found} == {NODE}


def test_each_subnet_has_its_first_address() -> None:
    """What is reached without a gateway."""
    found = hop_sources([ONE, TWO, TWO_AGAIN, OTHER], [])
    for ifindex in (2, NODE):
        assert chosen(found, ifindex, "10.1.0.9") == "10.1.0.5"
        assert chosen(found, ifindex, "10.2.0.9") == "10.2.0.5"
    assert chosen(found, NODE, "10.3.0.9") == "10.3.0.5"
    assert chosen(found, 2, "10.9.0.9") == ""


def test_a_gateway_is_in_a_subnet() -> None:
    """Packets by it come from there, whichever address is the device's first."""
    found = hop_sources([ONE, TWO, TWO_AGAIN], [DEFAULT])
    assert chosen(found, 2, "192.0.2.1") == chosen(found, NODE, "192.0.2.1") == "10.2.0.5"
    assert chosen(found, 2, "10.1.0.9") == "10.1.0.5"


def test_the_first_of_two_routes_counts() -> None:
    """A second way to the same network has a worse metric, or is another next hop."""
    second = DEFAULT._replace(gateway=ip("10.1.0.1"))
    assert chosen(hop_sources([ONE, TWO], [DEFAULT, second]), 2, "192.0.2.1") == "10.2.0.5"


def test_a_gateway_that_is_nowhere_says_nothing() -> None:
    """An on-link gateway elsewhere, one of the other family, or none: the first address counts."""
    for gateway in (ip("10.9.0.1"), ip("fd00::1"), b""):
        found = hop_sources([ONE, TWO], [DEFAULT._replace(gateway=gateway)])
        assert chosen(found, 2, "192.0.2.1") == ""
        assert chosen(found, NODE, "192.0.2.1") == "10.1.0.5"


def test_the_node_itself_goes_by_the_best_route() -> None:
    """From what the route names, else from an address of the device that it leads by."""
    worse = Hop(3, is_default=True, metric=9, to=net("0.0.0.0/0"), gateway=ip("10.3.0.1"))
    own = [ONE, OTHER]
    assert chosen(hop_sources(own, [worse, DEFAULT]), NODE, "192.0.2.1") == "10.1.0.5"
    assert chosen(hop_sources(own, [DEFAULT, BY_OTHER]), NODE, "10.9.0.9") == "10.3.0.5"
    named = BY_OTHER._replace(source=ip("10.7.7.7"))
    found = hop_sources(own, [DEFAULT, named])
    assert chosen(found, NODE, "10.9.0.9") == "10.7.7.7"
    assert chosen(found, 3, "10.9.0.9") == ""


def test_thousands_of_routes_are_few_elements() -> None:
    """Routing protocols tell every node of each other's pods: most say what the default does."""
    routes = [
        Hop(2, is_default=False, metric=0, to=net(f"10.{n >> 8 | 128}.{n & 255}.0/24"),
            gateway=ip("10.2.0.1" if n % 1000 else "10.1.0.1"))
        for n in range(5000)
    ]  # fmt: skip
    found = hop_sources([ONE, TWO], [DEFAULT, *routes])
    assert len(found) < 20
    for ifindex in (2, NODE):
        assert chosen(found, ifindex, "10.128.1.9") == "10.2.0.5"
        assert chosen(found, ifindex, "10.131.232.9") == "10.1.0.5"


def test_ipv6() -> None:
    """The same, with longer addresses."""
    own = [Own(2, ip("fd01::5"), 64), Own(2, ip("fd02::5"), 64)]
    hop = Hop(2, is_default=True, metric=0, to=net("::/0"), gateway=ip("fd02::1"))
    assert chosen(hop_sources(own, [hop]), 2, "fd09::1") == "fd02::5"


def test_ipv6_gateways_have_link_local_addresses() -> None:
    """What is in no subnet comes from an address of its kind (RFC 6724)."""
    world, local = Own(2, ip("2001:db8:1::5"), 64), Own(2, ip("fd01::5"), 64)
    hop = Hop(2, is_default=True, metric=0, to=net("::/0"), gateway=ip("fe80::1"))
    for own in ([world, local], [local, world]):
        found = hop_sources(own, [hop])
        for ifindex in (2, NODE):
            assert chosen(found, ifindex, "2001:db8:9::1") == "2001:db8:1::5"
            assert chosen(found, ifindex, "fd09::1") == "fd01::5"


networks = st.builds(
    masked, st.integers(0, 15).map(lambda n: bytes((n << 4, 0, 0, 0))), st.integers(0, 4)
)
ways = st.dictionaries(
    st.builds(Way, st.integers(0, 1), networks), st.sampled_from([ONE.address, TWO.address])
)


@given(ways)
def test_what_is_left_out_changes_nothing(wanted: dict[Way, bytes]) -> None:
    """Every address finds what it found, but for what a device has as its usual one."""
    kept = needed(wanted)
    for ifindex in (0, 1):
        for number in range(16):
            to = f"{number << 4}.0.0.1"
            assert chosen(kept, ifindex, to) == chosen(wanted, ifindex, to)

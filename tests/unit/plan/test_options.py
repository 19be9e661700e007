# SPDX-License-Identifier: Apache-2.0
"""NodePort addresses, node IPs and CIDRs (parity A7, A16.2)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kube.addresses import parse_address
from pyproxy.model import Family, Node, Prefix, address_text, family_of
from pyproxy.plan.cidr import contains
from pyproxy.plan.options import (
    DetectLocalMode,
    Mode,
    is_local,
    is_node_port_address,
    lacks_pod_cidrs,
    node_ips,
    node_port_addresses,
    with_node,
)
from tests.flows.load import FlowFile, section_rows
from tests.unit.plan.records import addresses, cidrs, options

OWN = frozenset(addresses("192.168.0.2", "192.168.1.2", "2001:db8::2"))


def served(address: str, *ranges: str, mode: Mode = Mode.IPTABLES, localhost: bool = True) -> bool:
    """Whether NodePorts are served on an address of a node with two IPv4 addresses."""
    chosen = options(
        local_addresses=OWN,
        node_port_addresses=cidrs(*ranges),
        mode=mode,
        localhost_node_ports=localhost,
    )
    return is_node_port_address(parse_address(address), chosen)


@pytest.mark.parametrize(
    ("address", "ranges", "expected"),
    [
        ("192.168.1.2", [], True),
        ("192.168.1.2", ["2001:db8::/64"], True),
        ("192.168.1.2", ["192.168.0.0/24", "0.0.0.0/0"], True),
        ("192.168.1.2", ["192.168.0.0/24"], False),
        ("192.168.0.2", ["192.168.0.0/24"], True),
        ("2001:db8::2", ["192.168.0.0/24"], True),
        ("192.168.0.3", [], False),
    ],
)
def test_node_port_addresses_by_family(address: str, ranges: list[str], *, expected: bool) -> None:
    """A7.1: CIDRs count for their family; none of it or a /0 means every own address."""
    assert served(address, *ranges) is expected


@pytest.mark.parametrize(
    ("address", "ranges", "expected"),
    [
        ("127.0.0.1", [], True),
        ("127.9.9.9", [], True),
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("127.0.0.2", ["127.0.0.0/8"], False),
        ("127.0.0.1", ["192.168.0.0/24"], False),
        ("::1", [], False),
        ("::1", ["::1/128"], False),
    ],
)
def test_localhost_node_ports(address: str, ranges: list[str], *, expected: bool) -> None:
    """A7.5: iptables serves 127/8 (with CIDRs the address that lo has), never ::1."""
    assert served(address, *ranges) is expected
    assert not served(address, *ranges, localhost=False)
    assert not served(address, *ranges, mode=Mode.NFTABLES)


def test_loopback_is_local() -> None:
    """All of 127/8 and ::1 count as the node's own, other addresses if an interface has them."""
    mine = options(local_addresses=OWN)
    own = addresses("127.5.5.5", "::1", "192.168.0.2")
    assert all(is_local(address, mine) for address in own)
    assert not is_local(parse_address("192.168.0.9"), mine)


def test_upstream_node_port_rows(flow_file: FlowFile) -> None:
    """A7.1: the addresses that upstream's own test expects for CIDRs and interfaces."""
    for row in section_rows(flow_file.path, "nodeport_addresses"):
        own = frozenset(parse_address(text.split("/")[0]) for text in row["ifaces"])
        outer = frozenset(a for a in own if not is_local(a, options(local_addresses=frozenset())))
        chosen = options(local_addresses=outer, node_port_addresses=cidrs(*row["cidrs"]))
        for family, key in ((Family.IPV4, "v4"), (Family.IPV6, "v6")):
            every = {a for a in outer if len(a) == family.address_bytes}
            listed = every if row[key] == "all" else set(addresses(*row[key])) & outer
            assert set(node_port_addresses(family, chosen)) == listed, row


def test_node_gives_first_ip_of_each_family() -> None:
    """A16.2: the first address of each family is the node's; a lost Node keeps them (A16.4)."""
    node = Node("node-1", addresses("fd00::5", "10.9.9.9", "10.9.9.8"), zone="zone-b")
    known = with_node(options(), node)
    assert known.node_ips == addresses("fd00::5", "10.9.9.9")
    assert known.node_ip(Family.IPV4) == parse_address("10.9.9.9")
    gone = with_node(known, None)
    assert (gone.zone, gone.node_ips) == ("", known.node_ips)


def test_primary_stands_for_the_node_ips() -> None:
    """A7.2: NodePorts on the Node's own IPs; of a family without one, on all of its addresses."""
    own = addresses("192.168.0.2", "192.168.1.2", "2001:db8::2", "2001:db8::3")
    chosen = options(node_ports_on_primary=True, local_addresses=frozenset(own))
    both = with_node(chosen, Node("node-1", addresses("192.168.1.2", "2001:db8::3")))
    assert node_port_addresses(Family.IPV4, both) == addresses("192.168.1.2")
    assert node_port_addresses(Family.IPV6, both) == addresses("2001:db8::3")
    lone = with_node(chosen, Node("node-1", addresses("192.168.1.2")))
    assert node_port_addresses(Family.IPV4, lone) == addresses("192.168.1.2")
    assert node_port_addresses(Family.IPV6, lone) == addresses("2001:db8::2", "2001:db8::3")


def test_upstream_node_ip_rows(flow_file: FlowFile) -> None:
    """A16.2: Test_detectNodeIPs: a bind address is the IP of its family, which comes first then."""
    for row in section_rows(flow_file.path, "node_ips"):
        bind = parse_address(row["bind"]) if row["bind"] else b""
        bind = bind if any(bind) else b""
        chosen = options(node_ips=node_ips(bind, ()), bind_address=bind)
        known = with_node(chosen, Node("node-1", addresses(*row["node"])))
        found = {f.label: address_text(known.node_ip(f)) for f in Family}
        assert found == {"IPv4": row["v4"], "IPv6": row["v6"]}, row
        if known.node_ips:
            assert family_of(known.node_ips[0]).label == row["primary"], row


def test_bind_address_counts_without_a_node() -> None:
    """A16.2: before the Node is known, and when it goes."""
    bind = parse_address("10.0.0.1")
    chosen = options(node_ips=node_ips(bind, ()), bind_address=bind)
    assert chosen.node_ip(Family.IPV4) == bind
    known = with_node(chosen, Node("node-1", addresses("192.168.0.7", "fd00::7")))
    assert known.node_ips == addresses("10.0.0.1", "fd00::7")
    assert with_node(known, None).node_ips == addresses("10.0.0.1", "fd00::7")


def test_a_nodes_pod_cidrs_come_and_stay() -> None:
    """A16.4: without any nobody is a pod, which is told; new ones count, none are no others."""
    mine = options(detect_local_mode=DetectLocalMode.NODE_CIDR, local_cidrs=())
    bare = with_node(mine, Node("node-1", addresses("10.9.9.9")))
    assert lacks_pod_cidrs(bare)
    for first in ("10.1.0.0/24", "10.2.0.0/24"):
        known = with_node(bare, Node("node-1", (), "", cidrs(first)))
        assert known.local_cidrs == cidrs(first)
        assert not lacks_pod_cidrs(known)
        assert with_node(known, Node("node-1")).local_cidrs == cidrs(first)
        assert with_node(known, None).local_cidrs == cidrs(first)
    by_cluster = options(local_cidrs=())
    assert not lacks_pod_cidrs(by_cluster)
    assert with_node(by_cluster, Node("node-1", (), "", cidrs("10.1.0.0/24"))).local_cidrs == ()


def test_unknown_node_ip_is_loopback() -> None:
    """A16.2: without an address of a family kube-proxy goes on with the loopback one."""
    lone = options(node_ips=())
    assert lone.node_ip(Family.IPV4) == parse_address("127.0.0.1")
    assert lone.node_ip(Family.IPV6) == parse_address("::1")


@given(
    address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    other=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    bits=st.integers(0, 128),
)
def test_cidr_agrees_with_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
) -> None:
    """Membership in a CIDR is what the standard library says, both families."""
    length = min(bits, address.max_prefixlen)
    network = ipaddress.ip_network((address, length), strict=False)
    prefix = Prefix(network.network_address.packed, length)
    assert contains(prefix, other.packed) is (other in network)
    assert contains(prefix, address.packed)

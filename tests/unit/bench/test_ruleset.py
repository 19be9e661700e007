# SPDX-License-Identifier: Apache-2.0
"""The nftables rules that the packet path is compared with have kube-proxy's form."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.bench import objects
from tests.bench.ruleset import TRANSACTION, Endpoint, Port, Ruleset, ports_of

WEB4 = Port("shop/web/tcp/http", "10.96.0.80", "tcp", 80, (Endpoint("10.244.1.12", 7000),))
WEB6 = Port("shop/web/tcp/http", "fd00:10:96::80", "tcp", 80, (Endpoint("fd00::12", 7000),))
DNS4 = WEB4._replace(
    name="shop/web/udp/dns",
    protocol="udp",
    endpoints=(Endpoint("10.244.1.12", 53), Endpoint("10.244.1.13", 53)),
)
NODE4 = WEB4._replace(node_port=30080)
# What makes the kernel track connections for as long as it stands anywhere in a table.
TRACKING = re.compile(r"\bct\b|\bdnat\b|\bmasquerade fully|\bhook\b")


def _rules(text: str, chain: str) -> list[str]:
    """Return the rules that a transaction adds to a chain, or to those whose name begins so-."""
    name = rf"{chain}\S*" if chain.endswith("-") else chain
    found = re.findall(rf"^add rule ip6? kube-proxy {name} (.*)$", text, re.MULTILINE)
    return [re.sub(r"-[A-Z2-7]{8}-", "-HASH-", rule) for rule in found]


def _names(verb: str, kind: str, text: str) -> list[str]:
    return re.findall(rf"^{verb} {kind} ip6? kube-proxy (\S+)", text, re.MULTILINE)


def test_a_packet_to_a_service_is_looked_up_by_its_destination() -> None:
    """One lookup of address, protocol and port leads to the service's chain, another for nodes."""
    (tables,) = Ruleset(4, "10.0.0.11", []).standing([])
    assert _rules(tables, "services") == [
        "ip daddr . meta l4proto . th dport vmap @service-ips",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ]
    assert "nodeport-ips { 10.0.0.11 }" in tables


def test_a_dialled_service_chooses_at_random_and_translates() -> None:
    """The service's chain goes to an endpoint's, which marks its own pod and rewrites."""
    text = Ruleset(4, "10.0.0.11", [DNS4]).on()
    chain = "endpoint-HASH-shop/web/udp/dns__10.244.1."
    assert _rules(text, "service-") == [
        f"numgen random mod 2 vmap {{ 0 : goto {chain}12/53, 1 : goto {chain}13/53 }}"
    ]
    assert _rules(text, "endpoint-")[:2] == [
        "ip saddr 10.244.1.12 jump mark-for-masquerade",
        "meta l4proto udp dnat to 10.244.1.12:53",
    ]
    assert re.search(r"service-ips \{ 10.96.0.80 . udp . 80 : goto service-\S+ \}", text)


def test_a_node_port_marks_for_masquerade_on_its_way_to_the_service() -> None:
    """kube-proxy hides who comes by a NodePort, wherever the endpoint is."""
    text = Ruleset(4, "10.0.0.11", [NODE4]).on()
    assert _rules(text, "external-") == [
        "jump mark-for-masquerade",
        "goto service-HASH-shop/web/tcp/http",
    ]
    assert re.search(r"service-nodeports \{ tcp . 30080 : goto external-\S+ \}", text)
    assert "external-" not in Ruleset(4, "10.0.0.11", [WEB4]).on()


def test_ipv6_differs_by_its_addresses_alone() -> None:
    """A socket's address has brackets, a chain's name no colon, and the table is ip6's."""
    text = Ruleset(6, "fd00:10::11", [WEB6]).on()
    assert _rules(text, "endpoint-") == [
        "ip6 saddr fd00::12 jump mark-for-masquerade",
        "meta l4proto tcp dnat to [fd00::12]:7000",
    ]
    assert not any(":" in name for name in _names("add", "chain", text))
    assert " ip kube-proxy" not in text


@pytest.mark.parametrize(
    ("chain", "hook", "jumps"),
    [
        ("nat-prerouting", "type nat hook prerouting priority -100", ["jump services"]),
        ("nat-output", "type nat hook output priority -100", ["jump services"]),
        ("nat-postrouting", "type nat hook postrouting priority 100", ["jump masquerading"]),
        (
            "filter-forward",
            "type filter hook forward priority -110",
            ["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        (
            "filter-input",
            "type filter hook input priority -110",
            [
                "ct state new jump nodeport-endpoints-check",
                "ct state new jump service-endpoints-check",
            ],
        ),
    ],
)
def test_base_chains(chain: str, hook: str, jumps: list[str]) -> None:
    """Only new connections are checked; translation needs no condition: NAT sees none else."""
    text = Ruleset(4, "10.0.0.11", []).on()
    assert f"add chain ip kube-proxy {chain} {{ {hook}; }}" in text
    assert _rules(text, chain) == jumps


def test_what_stands_tracks_nothing() -> None:
    """Neither tables nor the crowd's services put anything on the path of a packet."""
    parts = list(Ruleset(4, "10.0.0.11", [WEB4]).standing([DNS4] * 3))
    assert "numgen random" in parts[1]
    assert not any(TRACKING.search(part) for part in parts)
    assert TRACKING.search(Ruleset(4, "10.0.0.11", [WEB4]).on())


def test_off_deletes_what_on_adds() -> None:
    """Every chain and element is gone again; a chain goes after all that leads to it."""
    rules = Ruleset(4, "10.0.0.11", [NODE4, DNS4])
    added, deleted = (rules.on(), rules.off())
    chains = _names("delete", "chain", deleted)
    assert sorted(chains) == sorted(_names("add", "chain", added))
    elements = set(_names("add", "element", added))
    assert set(_names("delete", "element", deleted)) == elements
    assert elements == {"service-ips", "cluster-ips", "service-nodeports"}
    for source, target in re.findall(r"kube-proxy (\S+) .*(?:jump|goto) (\S+)", added):
        if {source, target} <= set(chains):
            assert chains.index(source) < chains.index(target)


def test_ports_are_those_of_the_objects() -> None:
    """The rules serve what the agent is given: the same services, in both families."""
    members = [objects.crowd_member(number) for number in range(3)]
    crowd = list(itertools.chain(*members))
    ports = ports_of(crowd, 6)
    assert [port.name for port in ports] == [f"bench/crowd-{n}/tcp/tcp" for n in range(3)]
    assert ports[1].cluster_ip == "fd00:10:96::1001"
    assert ports[1].endpoints[0] == Endpoint("fd00:10:200::4", 8080)
    assert len(ports[1].endpoints) == objects.ENDPOINTS_OF_THE_CROWD
    assert ports_of(crowd, 4)[2].cluster_ip == "10.96.16.2"


def test_no_transaction_is_large() -> None:
    """All services are in some transaction, and none has more than the kernel bears well."""
    crowd = [DNS4._replace(name=f"shop/web-{n}/udp/dns") for n in range(TRANSACTION + 1)]
    tables, *parts = Ruleset(4, "10.0.0.11", []).standing(crowd)
    assert [part.count("numgen") for part in parts] == [TRANSACTION, 1]
    assert "numgen" not in tables

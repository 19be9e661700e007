# SPDX-License-Identifier: Apache-2.0
"""The iptables rules that NodePorts are compared with have kube-proxy's form."""

from __future__ import annotations

import re

from tests.bench.chains import restore_text
from tests.bench.ruleset import Endpoint, Port

ENDS4 = (
    Endpoint("10.244.1.12", 7000),
    Endpoint("10.244.1.13", 7000),
    Endpoint("10.244.1.14", 7000),
)
WEB4 = Port("shop/web/tcp/http", "10.96.0.80", "tcp", 80, ENDS4, 30080)
WEB6 = Port("shop/web/udp/dns", "fd00::80", "udp", 53, (Endpoint("fd00::12", 53),), 30053)


def _rules(text: str, chain: str) -> list[str]:
    """Return the rules of the nat table that are appended to chains of this name or beginning."""
    nat = text.partition("*nat")[2]
    found = re.findall(rf"^-A {chain}\S* (.*)$", nat, re.MULTILINE)
    return [re.sub(r"-[A-Z2-7]{16}\b", "-HASH", rule) for rule in found]


def test_a_service_is_one_rule_among_all_and_node_ports_come_last() -> None:
    """The ClusterIP leads to the service's chain; what is for the node itself goes on below."""
    first, last = _rules(restore_text([WEB4]), "KUBE-SERVICES")
    assert first == (
        '-m comment --comment "shop/web:http cluster IP" '
        "-m tcp -p tcp -d 10.96.0.80 --dport 80 -j KUBE-SVC-HASH"
    )
    assert last.endswith("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")


def test_a_node_port_marks_for_masquerade_on_its_way_to_the_service() -> None:
    """kube-proxy hides who comes by a NodePort, wherever the endpoint is."""
    text = restore_text([WEB4])
    assert _rules(text, "KUBE-NODEPORTS") == [
        "-m comment --comment shop/web:http -m tcp -p tcp --dport 30080 -j KUBE-EXT-HASH"
    ]
    marks, goes_on = _rules(text, "KUBE-EXT-")
    assert marks.endswith('for shop/web:http external destinations" -j KUBE-MARK-MASQ')
    assert goes_on == "-j KUBE-SVC-HASH"
    assert _rules(text, "KUBE-MARK-MASQ") == ["-j MARK --or-mark 0x4000"]
    assert _rules(text, "KUBE-POSTROUTING")[-1].endswith("-j MASQUERADE --random-fully")


def test_endpoints_have_the_same_chance() -> None:
    """Each rule has its share of what the ones before have left; the last one takes the rest."""
    chances = [
        re.findall(r"--probability (\S+)", rule)
        for rule in _rules(restore_text([WEB4]), "KUBE-SVC-")
    ]
    assert chances == [["0.3333333333"], ["0.5000000000"], []]


def test_an_endpoint_marks_its_own_pod_and_rewrites() -> None:
    """IPv6 differs by its addresses and their brackets alone."""
    assert _rules(restore_text([WEB6]), "KUBE-SEP-") == [
        "-m comment --comment shop/web:dns -s fd00::12 -j KUBE-MARK-MASQ",
        "-m comment --comment shop/web:dns -m udp -p udp -j DNAT --to-destination [fd00::12]:53",
    ]


def test_every_chain_that_is_used_is_declared() -> None:
    """iptables-restore makes the chains that a table's head names, and no other."""
    for table in restore_text([WEB4, WEB6._replace(node_port=0)]).split("COMMIT\n")[:2]:
        declared = set(re.findall(r"^:(\S+) - ", table, re.MULTILINE))
        used = set(re.findall(r"(?:-A|-j) (KUBE-\S+)", table))
        assert used == declared

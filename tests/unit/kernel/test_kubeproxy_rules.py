# SPDX-License-Identifier: Apache-2.0
"""Which rules of a saved table are kube-proxy's, and what iptables-restore is told of them."""

from __future__ import annotations

import pytest

from pyproxy.kernel.kubeproxy_rules import Removal, is_kube_proxys, removal
from tests.lab.kubeproxy import Way, iptables

SVC, SEP = "KUBE-SVC-ABCDEFGHIJ234567", "KUBE-SEP-ZYXWVUTSRQ765432"
EXT = "KUBE-EXT-ABCDEFGHIJ234567"
HELD = [
    ":PYPROXY-CONNTRACK - [0:0]",
    "-A PYPROXY-CONNTRACK -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
]


def saved(table: str, *more: str, policy: str = "ACCEPT") -> list[str]:
    """Return a table as kube-proxy and others have it, and further rules."""
    builtin = {"nat": "PREROUTING OUTPUT POSTROUTING", "filter": "INPUT FORWARD OUTPUT"}
    text = iptables(Way("10.96.0.1", 80, "10.244.1.2", 8080, 30_080))
    lines = text.partition(f"*{table}\n")[2].partition("COMMIT")[0].splitlines()
    return [f":{each} {policy} [0:0]" for each in builtin.get(table, "").split()] + lines + [*more]


def deleted(found: Removal) -> set[str]:
    """Return which chains are deleted."""
    return {line[3:] for line in found.text.splitlines() if line.startswith("-X ")}


def test_nothing_is_said_where_nothing_is() -> None:
    """A table without chains of kube-proxy's is not written at all."""
    others = [":OUTPUT ACCEPT [0:0]", ":KUBE-FIREWALL - [0:0]", "-A OUTPUT -j KUBE-FIREWALL"]
    assert removal("filter", others) == Removal("", 0, {})
    assert removal("nat", []) == Removal("", 0, {})


def test_a_table_loses_jumps_then_rules_then_chains() -> None:
    """In one step; what keeps connections tracked comes with it."""
    found = removal("nat", saved("nat"))
    names = [
        EXT, "KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY", SEP,
        "KUBE-SERVICES", SVC,
    ]  # fmt: skip
    assert found.text.splitlines() == [
        "*nat",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        *(f"-F {each}" for each in names),
        *(f"-X {each}" for each in names),
        *HELD,
        "COMMIT",
    ]
    assert (found.chains, found.kept) == (8, {})


def test_what_kubelet_has_stays() -> None:
    """Its canary and hint, and KUBE-FIREWALL of the table filter alone (A17.6)."""
    assert deleted(removal("mangle", saved("mangle"))) == {"KUBE-PROXY-CANARY"}
    gone = deleted(removal("filter", saved("filter")))
    assert "KUBE-FORWARD" in gone
    assert not gone & {"KUBE-FIREWALL", "KUBE-KUBELET-CANARY"}
    assert "PYPROXY" not in removal("filter", saved("filter")).text


@pytest.mark.parametrize(
    ("table", "chain", "is_ours"),
    [
        ("nat", "KUBE-FIREWALL", True),  # of its ipvs mode
        ("nat", "KUBE-MARK-DROP", False),  # kubelet's
        ("nat", "KUBE-XLB-ABCDEFGHIJ234567", True),
        ("filter", SVC, False),
        ("nat", "KUBE-SVC-short", False),
        ("filter", "KUBE-IPVS-OUT-FILTER", True),
        ("filter", "KUBE-NWPLCY-ABCDEFGHIJ234567", False),  # kube-router's
        ("filter", "KUBE-ROUTER-INPUT", False),
        ("raw", "KUBE-SERVICES", False),
    ],
)
def test_whose_a_chain_is(table: str, chain: str, is_ours: bool) -> None:
    """Names are known, table by table: many others begin with KUBE-, too."""
    assert is_kube_proxys(table, chain) is is_ours


def test_what_rules_of_others_lead_to_stays() -> None:
    """The plugin portmap marks packets by a chain that means nothing without KUBE-POSTROUTING."""
    more = (":CNI-SETMARK - [0:0]", "-A CNI-SETMARK -p tcp -j KUBE-MARK-MASQ")
    found = removal("nat", saved("nat", *more))
    assert found.kept == {
        "KUBE-MARK-MASQ": "rules of CNI-SETMARK lead there",
        "KUBE-POSTROUTING": "it masquerades what KUBE-MARK-MASQ marks",
    }
    assert not deleted(found) & found.kept.keys()
    assert "-D POSTROUTING" not in found.text
    direct = removal("nat", saved("nat", "-A OUTPUT -d 192.0.2.1/32 -j KUBE-MARK-MASQ"))
    assert direct.kept["KUBE-MARK-MASQ"] == "rules of OUTPUT lead there"


def test_what_stays_keeps_what_it_leads_to() -> None:
    """A chain that another one leads to cannot be deleted."""
    found = removal("nat", saved("nat", ":MINE - [0:0]", f"-A MINE -g {SVC}"))
    assert found.kept.keys() == {SVC, SEP, "KUBE-MARK-MASQ", "KUBE-POSTROUTING"} - {
        "KUBE-POSTROUTING"
    }
    assert "KUBE-SERVICES" in deleted(found)


def test_a_comment_leads_nowhere() -> None:
    """Though it reads like a jump; quotes may be in it."""
    more = [
        ":MINE - [0:0]",
        '-A MINE -m comment --comment "a -j KUBE-MARK-MASQ" -j ACCEPT',
        '-A MINE -m comment --comment "the \\"one\\" -j KUBE-SERVICES"',
    ]
    assert removal("nat", saved("nat", *more)).kept == {}


def test_connections_are_not_dropped_by_a_policy() -> None:
    """KUBE-FORWARD accepts what FORWARD drops by policy, unless rules of ours do (A9.12)."""
    found = removal("filter", saved("filter", policy="DROP"))
    assert found.kept.keys() == {"KUBE-FORWARD"}
    assert "FORWARD -m comment" not in found.text
    assert "-D OUTPUT" in found.text
    accepting = (":PYPROXY-FORWARD - [0:0]", "-A FORWARD -j PYPROXY-FORWARD")
    assert removal("filter", saved("filter", *accepting, policy="DROP")).kept == {}

# SPDX-License-Identifier: Apache-2.0
"""Which chains drop what is forwarded, and the commands that mend that, word for word."""

from __future__ import annotations

import pytest

from pyproxy.kernel import forward, nftables, xtables
from pyproxy.kernel.forward import Drop
from pyproxy.kernel.nftables import Chain
from pyproxy.kernel.xtables import Entry, Table
from pyproxy.model import Family

FORWARD4 = Chain("ip", "filter", "FORWARD", forwards=True, drops=True)
OWN = Chain("inet", "own", "routed", forwards=True, drops=True)
PODS = ("10.244.0.0/16", "fd00:10:244::/48")


class Netfilter:
    """What the kernel would say."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.legacy: dict[Family, Table] = {}
        self.error: OSError | None = None

    def read_chains(self) -> list[Chain]:
        """Stand for nftables.chains()."""
        if self.error:
            raise self.error
        return self.chains

    def read_legacy(self, family: Family) -> Table | None:
        """Stand for xtables.read()."""
        if self.error:
            raise self.error
        return self.legacy.get(family)


@pytest.fixture
def netfilter(monkeypatch: pytest.MonkeyPatch) -> Netfilter:
    """A node without rules, where every binary has a name of its own."""
    made = Netfilter()
    monkeypatch.setattr(nftables, "chains", made.read_chains)
    monkeypatch.setattr(xtables, "read", made.read_legacy)
    monkeypatch.setattr("shutil.which", lambda name: name)
    return made


def test_nothing_drops_where_nothing_is(netfilter: Netfilter) -> None:
    """Nor where a policy is ACCEPT, or a chain stands at another hook."""
    assert forward.drops(Family, PODS) == []
    netfilter.chains = [
        Chain("ip", "filter", "FORWARD", forwards=True),
        Chain("ip", "filter", "DOCKER"),
    ]
    netfilter.legacy[Family.IPV6] = Table((Entry(0, -2),), 0)
    assert forward.drops(Family, PODS) == []


def test_what_cannot_be_read_drops_nothing(netfilter: Netfilter) -> None:
    """Without CAP_NET_ADMIN, for instance."""
    netfilter.chains, netfilter.error = [FORWARD4], PermissionError()
    assert forward.drops(Family, PODS) == []


def test_pods_are_let_through_by_address(netfilter: Netfilter) -> None:
    """Each family by its own networks and its own binary; a table of somebody's own by nft."""
    netfilter.chains = [FORWARD4, OWN]
    netfilter.legacy[Family.IPV6] = Table((Entry(0, -2), Entry(168, -1)), 168)
    assert forward.drops(Family, PODS) == [
        Drop(
            "FORWARD of iptables (nft)",
            (
                "iptables-nft -w -A FORWARD -s 10.244.0.0/16 -j ACCEPT",
                "iptables-nft -w -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
            ),
        ),
        Drop(
            "FORWARD of ip6tables (legacy)",
            (
                "ip6tables-legacy -w -A FORWARD -s fd00:10:244::/48 -j ACCEPT",
                "ip6tables-legacy -w -A FORWARD -d fd00:10:244::/48 -j ACCEPT",
            ),
        ),
        Drop(
            "inet own routed",
            (
                "nft add rule inet own routed ip saddr 10.244.0.0/16 accept",
                "nft add rule inet own routed ip daddr 10.244.0.0/16 accept",
                "nft add rule inet own routed ip6 saddr fd00:10:244::/48 accept",
                "nft add rule inet own routed ip6 daddr fd00:10:244::/48 accept",
            ),
        ),
    ]


def test_where_pods_are_not_known_it_is_the_policy(
    netfilter: Netfilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plain name where the binaries of both flavours have no names of their own."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    netfilter.chains = [FORWARD4, OWN]
    assert [each.commands for each in forward.drops(Family, PODS[1:])] == [
        ("iptables -w -P FORWARD ACCEPT",),
        (
            "nft add rule inet own routed ip6 saddr fd00:10:244::/48 accept",
            "nft add rule inet own routed ip6 daddr fd00:10:244::/48 accept",
        ),
    ]
    assert forward.drops([], ())[0].commands == (
        "nft add chain inet own routed '{ policy accept; }'",
    )

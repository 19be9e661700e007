# SPDX-License-Identifier: Apache-2.0
"""Which chains drop what is forwarded, and the commands that mend that, word for word."""

from __future__ import annotations

import errno

import pytest

from pyproxy.kernel import accepting, forward, nftables, xtables
from pyproxy.kernel.forward import Drop, Filter, Flavour
from pyproxy.kernel.nftables import Chain
from pyproxy.kernel.xtables import Entry, Table
from pyproxy.model import Family

FORWARD4 = Chain("ip", "filter", "FORWARD", forwards=True, drops=True)
OWN = Chain("inet", "own", "routed", forwards=True, drops=True)
MARK = 0x4000
JUMP = forward.CHAIN.encode() + b"\0"
PODS = ("10.244.0.0/16", "fd00:10:244::/48")


class Netfilter:
    """What the kernel would say."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.legacy: dict[Family, Table] = {}
        self.rules: dict[str, list[bytes]] = {}
        self.error: OSError | None = None

    def read_chains(self) -> list[Chain]:
        """Stand for nftables.chains()."""
        if self.error:
            raise self.error
        return self.chains

    def read_chain(self, *wanted: str) -> Chain | None:
        """Stand for nftables.chain()."""
        return next((each for each in self.read_chains() if each[:3] == wanted), None)

    def read_rules(self, chain: Chain) -> list[bytes]:
        """Stand for nftables.rules()."""
        return self.rules.get(chain.name, [])

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
    monkeypatch.setattr(nftables, "chain", made.read_chain)
    monkeypatch.setattr(nftables, "rules", made.read_rules)
    monkeypatch.setattr(xtables, "read", made.read_legacy)
    monkeypatch.setattr("shutil.which", lambda name: name)
    return made


def test_nothing_drops_where_nothing_is(netfilter: Netfilter) -> None:
    """Nor where a policy is ACCEPT, or a chain stands at another hook."""
    assert forward.drops(Family, 0, PODS) == []
    netfilter.chains = [
        Chain("ip", "filter", "FORWARD", forwards=True),
        Chain("ip", "filter", "DOCKER"),
    ]
    netfilter.legacy[Family.IPV6] = Table((Entry(0, -2),), 0, 0)
    assert forward.drops(Family, 0, PODS) == []


def test_what_cannot_be_read_drops_nothing(netfilter: Netfilter) -> None:
    """Without CAP_NET_ADMIN, for instance."""
    netfilter.chains, netfilter.error = [FORWARD4], PermissionError()
    assert forward.drops(Family, 0, PODS) == []


def test_pods_are_let_through_by_address(netfilter: Netfilter) -> None:
    """Each family by its own networks and its own binary; a table of somebody's own by nft."""
    netfilter.chains = [FORWARD4, OWN]
    netfilter.legacy[Family.IPV6] = Table((Entry(0, -2), Entry(168, -1)), 0, 168)
    assert forward.drops(Family, 0, PODS) == [
        Drop(
            "FORWARD of iptables (nft)",
            (
                "iptables-nft -w -A FORWARD -s 10.244.0.0/16 -j ACCEPT",
                "iptables-nft -w -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
            ),
            is_iptables=True,
        ),
        Drop(
            "FORWARD of ip6tables (legacy)",
            (
                "ip6tables-legacy -w -A FORWARD -s fd00:10:244::/48 -j ACCEPT",
                "ip6tables-legacy -w -A FORWARD -d fd00:10:244::/48 -j ACCEPT",
            ),
            is_iptables=True,
        ),
        Drop(
            "inet own routed",
            (
                "nft add rule inet own routed ip saddr 10.244.0.0/16 accept",
                "nft add rule inet own routed ip daddr 10.244.0.0/16 accept",
                "nft add rule inet own routed ip6 saddr fd00:10:244::/48 accept",
                "nft add rule inet own routed ip6 daddr fd00:10:244::/48 accept",
            ),
            is_iptables=False,
        ),
    ]


def test_where_pods_are_not_known_it_is_the_policy(
    netfilter: Netfilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plain name where the binaries of both flavours have no names of their own."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    netfilter.chains = [FORWARD4, OWN]
    assert [each.commands for each in forward.drops(Family, 0, PODS[1:])] == [
        ("iptables -w -P FORWARD ACCEPT",),
        (
            "nft add rule inet own routed ip6 saddr fd00:10:244::/48 accept",
            "nft add rule inet own routed ip6 daddr fd00:10:244::/48 accept",
        ),
    ]
    assert forward.drops([], 0, ())[0].commands == (
        "nft add chain inet own routed '{ policy accept; }'",
    )


def test_what_bears_our_mark_is_let_through_elsewhere(netfilter: Netfilter) -> None:
    """Where our rules are nothing is to be done; where they are not, or cannot be, by the mark."""
    netfilter.chains = [FORWARD4, Chain("ip", "filter", forward.CHAIN), OWN]
    netfilter.rules = {"FORWARD": [b"x" + JUMP], forward.CHAIN: [b"1", b"2"]}
    nft = (
        "nft add rule inet own routed meta mark and 0x4000 == 0x4000 accept",
        "nft add rule inet own routed ct state established,related accept",
    )
    assert [each.commands for each in forward.drops(Family, MARK, PODS)] == [nft]
    assert len(forward.drops(Family, 0, PODS)) == 2, "nothing bears a mark"
    netfilter.rules[forward.CHAIN].pop()
    assert [each.commands for each in forward.drops(Family, MARK, PODS)] == [
        (
            "iptables-nft -w -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "iptables-nft -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
        nft,
    ]


def test_what_is_ours_in_a_legacy_table(netfilter: Netfilter) -> None:
    """A chain begins with a target of its name, ends with a policy, and is jumped to by offset."""
    netfilter.legacy[Family.IPV4] = Table(
        (
            Entry(0, -2), Entry(10, 60), Entry(20), Entry(30, 60), Entry(40, -1),
            Entry(50, begins=forward.CHAIN), Entry(60, -2), Entry(70, -2), Entry(80, -5),
            Entry(90, begins="LATER"), Entry(100, 60), Entry(110, -5), Entry(120, begins="ERROR"),
        ),
        10, 40,
    )  # fmt: skip
    (found,) = forward.filters(Family.IPV4)
    assert (found.drops, found.jumps, found.rules) == (True, 2, 2)
    assert found.is_ours
    assert not found.accepts, "a jump is too many"
    assert found._replace(jumps=1).accepts
    netfilter.legacy[Family.IPV4] = Table((Entry(0, -2), Entry(10, -2)), 0, 10)
    (found,) = forward.filters(Family.IPV4)
    assert (found.drops, found.jumps, found.rules, found.is_ours) == (False, 0, None, False)


def test_the_text_for_iptables_restore() -> None:
    """The chain is made anew and jumped to once, at the end; all of it goes again."""
    found = Filter(Family.IPV6, Flavour.LEGACY, drops=True, jumps=2, rules=1)
    assert accepting.added(found, MARK).splitlines() == [
        "*filter",
        "-D FORWARD -j PYPROXY-FORWARD",
        "-D FORWARD -j PYPROXY-FORWARD",
        ":PYPROXY-FORWARD - [0:0]",
        "-A PYPROXY-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A PYPROXY-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -j PYPROXY-FORWARD",
        "COMMIT",
    ]
    assert accepting.removed(found._replace(jumps=1)).splitlines() == [
        "*filter",
        "-D FORWARD -j PYPROXY-FORWARD",
        "-F PYPROXY-FORWARD",
        "-X PYPROXY-FORWARD",
        "COMMIT",
    ]


def test_a_kernel_without_nf_tables_has_no_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not the same as chains that cannot be read."""

    def ask(number: int) -> None:
        raise OSError(number, "")

    for number in (errno.EINVAL, errno.EPROTONOSUPPORT):
        monkeypatch.setattr(nftables, "ask", lambda *_, number=number: ask(number))
        assert nftables.chains() == []
        assert nftables.chain("ip", "filter", "FORWARD") is None
    monkeypatch.setattr(nftables, "ask", lambda *_: ask(errno.EPERM))
    with pytest.raises(PermissionError):
        nftables.chains()

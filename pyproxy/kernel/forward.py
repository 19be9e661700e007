# SPDX-License-Identifier: Apache-2.0
"""netfilter's FORWARD chains of this network namespace: which drop what no rule accepts.

What we translate is forwarded by the node, and its rules see it with the backend's address. A
firewall may accept it anyway (flannel's rules do), so that a policy DROP is only worth a notice.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from pyproxy.kernel import nftables, xtables
from pyproxy.kernel.nftables import INET, Chain
from pyproxy.model import Family

CHAIN = "PYPROXY-FORWARD"
TABLE, FORWARD = "filter", "FORWARD"
COMMANDS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED"


class Flavour(enum.Enum):
    """Which of the kernel's two tables named `filter` an iptables binary writes."""

    NFT = "nft"
    LEGACY = "legacy"
    USUAL = ""  # there is neither yet: whichever the node's iptables writes


class Filter(NamedTuple):
    """FORWARD of iptables' table `filter`, and what of ours is in that table.

    `drops`: its policy is DROP. `jumps` is how often it jumps to our chain, `rules` how many rules
    that one has, None where there is none.
    """

    family: Family
    flavour: Flavour
    drops: bool
    jumps: int = 0
    rules: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether there is anything of ours."""
        return self.rules is not None

    @property
    def accepts(self) -> bool:
        """Whether all of ours is there."""
        return self.jumps == 1 and self.rules == len(accepting_rules(0))


class Drop(NamedTuple):
    """A chain at hook forward whose policy is DROP: its name, and commands that mend it.

    `is_iptables`: forwardAccept would have it accept what we translate.
    """

    chain: str
    commands: tuple[str, ...]
    is_iptables: bool = False


def accepting_rules(mark: int) -> tuple[str, ...]:
    """Return what to match in FORWARD: what bears our mark, and what answers connections."""
    return (f"-m mark --mark {mark:#x}/{mark:#x}", ESTABLISHED)


def filters(family: Family) -> list[Filter]:
    """Return where this family has a FORWARD of iptables: by either flavour; raises OSError."""
    return [*_nft_filter(family), *_legacy_filter(family)]


def drops(families: Iterable[Family], mark: int, networks: Iterable[str]) -> list[Drop]:
    """Return the chains whose policy drops what we translate; what cannot be read drops nothing.

    `mark` is what our programs put on it, 0 for nothing: those chains of iptables that have our
    rules are left out then. `networks` are the pods'; none: they are not known.
    """
    found = []
    for family in families:
        with suppress(OSError):
            found += [
                Drop(_title(each), tuple(_iptables(each, mark, networks)), is_iptables=True)
                for each in filters(family)
                if each.drops and not (mark and each.accepts)
            ]
    with suppress(OSError):
        found += [
            Drop(f"{each.family} {each.table} {each.name}", tuple(_nft(each, mark, networks)))
            for each in nftables.chains()
            if each.drops and not _is_iptables(each)
        ]
    return found


def command(of: Filter, suffix: str = "") -> str:
    """Return which binary writes a table: of its flavour where that has a name of its own."""
    usual = COMMANDS[of.family]
    own = f"{usual}-{of.flavour.value}{suffix}"
    return own if of.flavour.value and shutil.which(own) else f"{usual}{suffix}"


def _nft_filter(family: Family) -> Iterator[Filter]:
    forward = nftables.chain(_WORDS[family], TABLE, FORWARD)
    if forward and forward.forwards:
        jump = CHAIN.encode() + b"\0"
        jumps = sum(jump in rule for rule in nftables.rules(forward))
        ours = nftables.chain(_WORDS[family], TABLE, CHAIN)
        many = len(nftables.rules(ours)) if ours else None
        yield Filter(family, Flavour.NFT, forward.drops, jumps, many)


def _legacy_filter(family: Family) -> Iterator[Filter]:
    table = xtables.read(family)
    if table:
        rules = table.rules(CHAIN)
        many = None if rules is None else len(rules)
        yield Filter(family, Flavour.LEGACY, table.drops, table.jumps(CHAIN), many)


def _is_iptables(chain: Chain) -> bool:
    return chain.family != INET and (chain.table, chain.name) == (TABLE, FORWARD)


def _title(of: Filter) -> str:
    return f"{FORWARD} of {COMMANDS[of.family]} ({of.flavour.value})"


def _iptables(of: Filter, mark: int, networks: Iterable[str]) -> Iterator[str]:
    tool = f"{command(of)} -w"
    own = [each for each in networks if _family(each) is of.family]
    matches = list(accepting_rules(mark)) if mark else [
        f"{end} {each}" for each in own for end in ("-s", "-d")
    ]  # fmt: skip
    for match in matches:
        yield f"{tool} -A {FORWARD} {match} -j ACCEPT"
    if not matches:
        yield f"{tool} -P {FORWARD} ACCEPT"


def _nft(chain: Chain, mark: int, networks: Iterable[str]) -> Iterator[str]:
    where = f"{chain.family} {chain.table} {chain.name}"
    words = {family: word for family, word in _WORDS.items() if chain.family in {word, INET}}
    own = [each for each in networks if _family(each) in words]
    matches = [f"meta mark and {mark:#x} == {mark:#x}", "ct state established,related"]
    if not mark:
        matches = [
            f"{words[_family(each)]} {end} {each}" for each in own for end in ("saddr", "daddr")
        ]
    for match in matches:
        yield f"nft add rule {where} {match} accept"
    if not matches:
        yield f"nft add chain {where} '{{ policy accept; }}'"


def _family(network: str) -> Family:
    return Family.IPV6 if ":" in network else Family.IPV4

# SPDX-License-Identifier: Apache-2.0
"""netfilter's FORWARD chains of this network namespace: which drop what no rule accepts.

What we translate is forwarded by the node, and its rules see it with the backend's address. A
firewall may accept it anyway (flannel's rules do), so that a policy DROP is only worth a notice.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.kernel import nftables, xtables
from pyproxy.kernel.nftables import INET, Chain
from pyproxy.model import Family

TABLE, FORWARD = "filter", "FORWARD"
COMMANDS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}


class Flavour(enum.Enum):
    """Which of the kernel's two tables named `filter` an iptables binary writes."""

    NFT = "nft"
    LEGACY = "legacy"


class Filter(NamedTuple):
    """FORWARD of iptables' table `filter`, and whether its policy is DROP."""

    family: Family
    flavour: Flavour
    drops: bool


class Drop(NamedTuple):
    """A chain at hook forward whose policy is DROP: its name, and commands that mend it."""

    chain: str
    commands: tuple[str, ...]


def drops(families: Iterable[Family], networks: Iterable[str]) -> list[Drop]:
    """Return the chains whose policy drops what we translate; what cannot be read drops nothing.

    `networks` are the pods', as CIDRs; none: they are not known.
    """
    try:
        chains = nftables.chains()
    except OSError:
        chains = []
    found = []
    for family in families:
        try:
            tables = [*_nft_filters(family, chains), *_legacy_filters(family)]
        except OSError:
            continue
        found += [
            Drop(_title(each), tuple(_iptables(each, networks))) for each in tables if each.drops
        ]
    return found + [
        Drop(f"{each.family} {each.table} {each.name}", tuple(_nft(each, networks)))
        for each in chains
        if each.drops and not _is_iptables(each)
    ]


def command(family: Family, flavour: Flavour) -> str:
    """Return which binary writes a family's tables: of that flavour where it has its own name."""
    own = f"{COMMANDS[family]}-{flavour.value}"
    return own if shutil.which(own) else COMMANDS[family]


def _nft_filters(family: Family, chains: Iterable[Chain]) -> Iterator[Filter]:
    for chain in chains:
        if chain.forwards and _is_iptables(chain) and chain.family == _WORDS[family]:
            yield Filter(family, Flavour.NFT, chain.drops)


def _legacy_filters(family: Family) -> Iterator[Filter]:
    table = xtables.read(family)
    if table:
        yield Filter(family, Flavour.LEGACY, table.drops)


def _is_iptables(chain: Chain) -> bool:
    return chain.family != INET and (chain.table, chain.name) == (TABLE, FORWARD)


def _title(of: Filter) -> str:
    return f"{FORWARD} of {COMMANDS[of.family]} ({of.flavour.value})"


def _iptables(of: Filter, networks: Iterable[str]) -> Iterator[str]:
    tool = f"{command(of.family, of.flavour)} -w"
    own = [each for each in networks if _family(each) is of.family]
    for each in own:
        yield f"{tool} -A {FORWARD} -s {each} -j ACCEPT"
        yield f"{tool} -A {FORWARD} -d {each} -j ACCEPT"
    if not own:
        yield f"{tool} -P {FORWARD} ACCEPT"


def _nft(chain: Chain, networks: Iterable[str]) -> Iterator[str]:
    where = f"{chain.family} {chain.table} {chain.name}"
    words = {family: word for family, word in _WORDS.items() if chain.family in {word, INET}}
    own = [each for each in networks if _family(each) in words]
    for each in own:
        for end in ("saddr", "daddr"):
            yield f"nft add rule {where} {words[_family(each)]} {end} {each} accept"
    if not own:
        yield f"nft add chain {where} '{{ policy accept; }}'"


def _family(network: str) -> Family:
    return Family.IPV6 if ":" in network else Family.IPV4

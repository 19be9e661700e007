# SPDX-License-Identifier: Apache-2.0
"""Removes what kube-proxy has left in this network namespace, and nothing of anybody else's.

All modes' and both flavours' of iptables (parity A17.6); nf_conntrack's entries stay, and go on
being used (A21.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyproxy.errors import KernelError, PyproxyError
from pyproxy.kernel import iptables, kubeproxy_ipvs, nftables, nftchanges, xtables
from pyproxy.kernel.addresses import IPVS_DEVICE
from pyproxy.kernel.forward import COMMANDS, Filter, Flavour, command
from pyproxy.kernel.kubeproxy_rules import (
    CHAINS,
    HOLDING,
    NAT,
    Removal,
    is_kube_proxys,
    removal,
    unhold,
)
from pyproxy.model import Family

TABLE = "kube-proxy"  # of its nftables mode
LONGEST_S = 120.0  # 10,000 services have some 50,000 chains
WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_INSTALL = "install the node's iptables, or remove them by hand"


class Outcome(NamedTuple):
    """What was removed, what stays on purpose, and what could not be removed: a line each."""

    removed: list[str]
    kept: list[str]
    failed: list[str]


class _Place(NamedTuple):
    """A table of iptables that has chains of kube-proxy's."""

    family: Family
    flavour: Flavour
    table: str

    def tool(self, suffix: str) -> str:
        """Return which binary reads or writes it."""
        return command(Filter(self.family, self.flavour, drops=False), suffix)

    def __str__(self) -> str:
        return f"table {self.table} of {COMMANDS[self.family]} ({self.flavour.value})"


def is_there() -> bool:
    """Return whether anything of kube-proxy's is to be seen; takes some ms. Raises OSError."""
    found = _nftables_chains()
    return bool(
        any(table == TABLE or is_kube_proxys(table, name) for _, table, name in found)
        or next(_legacy_places(is_kube_proxys), None)
        or kubeproxy_ipvs.has_device()
    )


def remove() -> Outcome:
    """Remove all that there is; what fails keeps nothing else from being removed."""
    outcome = Outcome([], [], [])
    steps: list[tuple[str, Callable[[Outcome], None]]] = [
        ("rules of iptables", _remove_rules),
        ("tables of nftables", _remove_tables),
        ("virtual servers of IPVS", _remove_servers),
        (IPVS_DEVICE, _remove_device),
        ("sets of ipset", _remove_sets),
    ]
    for what, step in steps:
        try:
            step(outcome)
        except (PyproxyError, OSError) as error:
            outcome.failed.append(f"{what}: {error}")
    return outcome


def unhold_connections() -> None:
    """Take away what keeps its connections translated; raises KernelError or OSError."""
    for place in _places(lambda table, chain: (table, chain) == (NAT, HOLDING)):
        iptables.restore(place.tool("-restore"), unhold())
    ours = {family for family, table, _ in _nftables_chains() if table == nftchanges.TABLE}
    for family in sorted(ours):
        nftchanges.apply(nftchanges.unhold(family))


def _remove_rules(outcome: Outcome) -> None:
    for place in list(_places(is_kube_proxys)):
        try:
            done = _remove_rules_of(place)
        except KernelError as error:
            outcome.failed.append(f"rules of {place}: {error}; {_INSTALL}")
            continue
        if done.chains:
            outcome.removed.append(f"{done.chains} chains of {place}")
        outcome.kept.extend(f"{chain} of {place}: {why}" for chain, why in done.kept.items())


def _remove_rules_of(place: _Place) -> Removal:
    save = place.tool("-save")
    done = removal(place.table, iptables.save(save, place.table))
    if not done.text and not done.kept:
        raise KernelError(f"{save} is of the other flavour")
    if done.text:
        iptables.restore(place.tool("-restore"), done.text, LONGEST_S)
    return done


def _remove_tables(outcome: Outcome) -> None:
    families = {family for family, table, _ in _nftables_chains() if table == TABLE}
    for family in sorted(families):
        nftchanges.apply(
            [*nftchanges.holding_table(family), nftchanges.delete_table(family, TABLE)]
        )
        outcome.removed.append(f"table {family} {TABLE} of nftables")


def _remove_servers(outcome: Outcome) -> None:
    if many := kubeproxy_ipvs.remove_servers():
        outcome.removed.append(f"{many} virtual servers of IPVS")


def _remove_device(outcome: Outcome) -> None:
    if kubeproxy_ipvs.remove_device():
        outcome.removed.append(f"the device {IPVS_DEVICE}")


def _remove_sets(outcome: Outcome) -> None:
    many, used = kubeproxy_ipvs.remove_sets()
    if many:
        outcome.removed.append(f"{many} sets of ipset")
    outcome.failed.extend(f"the set {name}: rules use it; remove those first" for name in used)


def _places(is_wanted: Callable[[str, str], bool]) -> Iterator[_Place]:
    """Give the tables of iptables that have such chains, by table and name."""
    families = {word: family for family, word in WORDS.items()}
    found = {
        _Place(families[family], Flavour.NFT, table)
        for family, table, name in _nftables_chains()
        if family in families and is_wanted(table, name)
    }
    yield from sorted(found, key=str)
    yield from _legacy_places(is_wanted)


def _legacy_places(is_wanted: Callable[[str, str], bool]) -> Iterator[_Place]:
    for family in Family:
        for table in sorted(CHAINS.keys() & xtables.names(family)):
            if any(is_wanted(table, chain) for chain in xtables.chains(family, table)):
                yield _Place(family, Flavour.LEGACY, table)


def _nftables_chains() -> list[tuple[str, str, str]]:
    """Return family, table and name of nftables' chains; iptables-nft's are among them."""
    return [(each.family, each.table, each.name) for each in nftables.chains()]

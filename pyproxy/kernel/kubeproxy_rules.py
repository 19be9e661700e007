# SPDX-License-Identifier: Apache-2.0
"""Which rules of iptables are kube-proxy's, and how they are removed without harm to others.

Connections that its rules have translated go on by conntrack alone (parity A21.5). But the kernel
stops tracking, and translating, when the last rule that needs it is gone; so a chain of ours that
nobody jumps to takes its place.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pyproxy.kernel.forward import CHAIN as ACCEPTING
from pyproxy.kernel.forward import ESTABLISHED

HOLDING = "PYPROXY-CONNTRACK"
NAT, FILTER = "nat", "filter"
MARK_MASQ, POSTROUTING = "KUBE-MARK-MASQ", "KUBE-POSTROUTING"
FORWARD, KUBE_FORWARD = "FORWARD", "KUBE-FORWARD"
CANARY = "KUBE-PROXY-CANARY"
CHAINS: Mapping[str, frozenset[str]] = {
    NAT: frozenset(
        {
            "KUBE-SERVICES", "KUBE-NODEPORTS", POSTROUTING, MARK_MASQ, CANARY,
            # its ipvs mode
            "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-FIREWALL",
        }
    ),
    FILTER: frozenset(
        {
            "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", KUBE_FORWARD,
            "KUBE-PROXY-FIREWALL", CANARY,
            # its ipvs mode
            "KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER",
            "KUBE-IPVS-OUT-FILTER",
        }
    ),
    "mangle": frozenset({CANARY}),
}  # fmt: skip
"""kube-proxy's chains by table (parity A17.6): kubelet's KUBE-FIREWALL of `filter` is none."""

# of a service or an endpoint, by a hash in base 32
_HASHED = re.compile(r"KUBE-(SVC|SVL|FW|XLB|EXT|SEP)-[A-Z2-7]{16}")


class Removal(NamedTuple):
    """What iptables-restore is to be told, "" for nothing; how many chains go, which stay and why.

    What cannot go without harm is kept.
    """

    text: str
    chains: int
    kept: dict[str, str]


class _Table(NamedTuple):
    """What a saved table has of kube-proxy's.

    `jumps` are the rules of the kernel's own chains that lead there, with their targets; `ways`
    lead from one of its chains to others; `foreign` are those that rules of others lead to, with
    who does. `drops`: FORWARD drops what no rule of another accepts for connections that there are.
    """

    chains: set[str]
    jumps: list[tuple[str, str]]
    ways: dict[str, set[str]]
    foreign: dict[str, str]
    drops: bool


def is_kube_proxys(table: str, chain: str) -> bool:
    """Return whether a chain is kube-proxy's."""
    named = chain in CHAINS.get(table, ())
    return named or (table == NAT and _HASHED.fullmatch(chain) is not None)


def removal(table: str, saved: Iterable[str]) -> Removal:
    """Return how a table that iptables-save has written loses what is kube-proxy's."""
    found = _read(table, saved)
    kept = _kept(found)
    gone = sorted(found.chains - kept.keys())
    if not gone:
        return Removal("", 0, kept)
    lines = [f"-D {rule.removeprefix('-A ')}" for rule, to in found.jumps if to not in kept]
    # emptied first: they lead to each other
    lines += [f"{verb} {chain}" for verb in ("-F", "-X") for chain in gone]
    if table == NAT:
        lines += [f":{HOLDING} - [0:0]", f"-A {HOLDING} {ESTABLISHED} -j RETURN"]
    return Removal("\n".join([f"*{table}", *lines, "COMMIT", ""]), len(gone), kept)


def unhold() -> str:
    """Return what iptables-restore takes our chain away by."""
    return f"*{NAT}\n-F {HOLDING}\n-X {HOLDING}\nCOMMIT\n"


def _read(table: str, saved: Iterable[str]) -> _Table:
    found = _Table(set(), [], {}, {}, drops=False)
    builtin: set[str] = set()
    drops = accepts = False
    for line in saved:
        kind, _, rest = line.partition(" ")
        chain = rest.partition(" ")[0]
        if line.startswith(":"):
            name = kind[1:]
            if is_kube_proxys(table, name):
                found.chains.add(name)
            elif chain != "-":
                builtin.add(name)
            drops |= (table, name, chain) == (FILTER, FORWARD, "DROP")
        elif kind == "-A" and is_kube_proxys(table, chain):
            found.ways.setdefault(chain, set()).update(_targets(line.split()))
        elif kind == "-A":
            targets = set(_targets(_words(line)))
            accepts |= chain == FORWARD and ACCEPTING in targets
            for to in targets:
                _note(found, table, line, to, chain if chain not in builtin else "")
    return found._replace(drops=drops and not accepts)


def _note(found: _Table, table: str, line: str, to: str, by: str) -> None:
    """Remember where a rule leads that stands in no chain of kube-proxy's; `by` "": a kernel's."""
    if not is_kube_proxys(table, to):
        return
    # kube-proxy itself jumps to that one from its own chains alone
    if by or to == MARK_MASQ:
        found.foreign[to] = by or line.split()[1]
    else:
        found.jumps.append((line, to))


def _words(line: str) -> list[str]:
    """Return the words of a rule; comments are quoted."""
    if "KUBE-" not in line and ACCEPTING not in line:
        return []
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _targets(words: list[str]) -> Iterator[str]:
    for option, word in zip(words[-2::-1], words[:0:-1], strict=True):
        if option in {"-j", "-g"}:
            yield word
            return


def _kept(found: _Table) -> dict[str, str]:
    """Return which chains stay, and why."""
    kept = {to: f"rules of {by} lead there" for to, by in found.foreign.items()}
    if MARK_MASQ in kept and POSTROUTING in found.chains:
        kept[POSTROUTING] = f"it masquerades what {MARK_MASQ} marks"
    if found.drops and KUBE_FORWARD in found.chains:
        kept[KUBE_FORWARD] = (
            f"{FORWARD} drops by policy, and connections go on by it: set forwardAccept, or have"
            " rules of your own accept what is forwarded, and remove it by hand"
        )
    rest = list(kept)
    while rest:
        chain = rest.pop()
        new = (found.ways.get(chain, set()) & found.chains) - kept.keys()
        kept |= dict.fromkeys(new, f"rules of {chain} lead there")
        rest += new
    return {chain: why for chain, why in kept.items() if chain in found.chains}

# SPDX-License-Identifier: Apache-2.0
"""Our chain in iptables' table `filter`: FORWARD accepts what we translate (forwardAccept).

kube-proxy's iptables mode accepts the same by its chain KUBE-FORWARD (parity A9.12). Its jump comes
first; ours comes last, so that no rule of others that drops something is passed by.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.errors import KernelError
from pyproxy.kernel import iptables
from pyproxy.kernel.forward import (
    CHAIN,
    FORWARD,
    TABLE,
    Filter,
    Flavour,
    accepting_rules,
    command,
    filters,
)
from pyproxy.model import Family


def accept(family: Family, mark: int, *, again: bool = False) -> bool:
    """Have each FORWARD of a family accept what bears a mark, and answers.

    Return whether anything was written: what is missing, or all `again`. Raises KernelError or
    OSError.
    """
    present = filters(family) or [Filter(family, Flavour.USUAL, drops=False)]
    wrong = [each for each in present if again or not each.accepts]
    for each in wrong:
        iptables.restore(command(each, "-restore"), added(each, mark))
    if wrong and not all(each.accepts for each in filters(family)):
        raise KernelError(f"rules of {command(wrong[0])} did not get to where {FORWARD} is")
    return bool(wrong)


def withdraw(family: Family) -> bool:
    """Take all of ours out of a family's tables; as accept(). Costs little where nothing is."""
    ours = [each for each in filters(family) if each.is_ours]
    for each in ours:
        iptables.restore(command(each, "-restore"), removed(each))
    return bool(ours)


def added(to: Filter, mark: int) -> str:
    """Return what iptables-restore makes our chain of, whatever of it is there."""
    chain = [f":{CHAIN} - [0:0]"]
    chain += [f"-A {CHAIN} {match} -j ACCEPT" for match in accepting_rules(mark)]
    # the last one, once
    return _table([*_unjump(to), *chain, f"-A {FORWARD} -j {CHAIN}"])


def removed(of: Filter) -> str:
    """Return what iptables-restore takes all of ours away by."""
    return _table([*_unjump(of), f"-F {CHAIN}", f"-X {CHAIN}"])


def _unjump(of: Filter) -> Iterator[str]:
    for _ in range(of.jumps):
        yield f"-D {FORWARD} -j {CHAIN}"


def _table(lines: list[str]) -> str:
    return "\n".join([f"*{TABLE}", *lines, "COMMIT", ""])

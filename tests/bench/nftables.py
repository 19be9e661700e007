# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's nftables rules in a node's network namespace, put on the path and taken off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.bench.netfilter import Rules, Tracking
from tests.bench.objects import Object
from tests.bench.ruleset import Ruleset, ports_of
from tests.lab.hosts import Node


class Nftables(Rules):
    """The rules of both families in a node's namespace; see nftables_on()."""

    def __init__(self, namespace: Path, rulesets: Sequence[Ruleset], tracking: Tracking) -> None:
        super().__init__(namespace, tracking)
        self._rulesets = rulesets

    def load(self, crowd: Sequence[Sequence[str]]) -> None:
        """Run the transactions of each family that make what stands."""
        for transactions in crowd:
            for transaction in transactions:
                self._nft(transaction)

    def unload(self) -> None:
        """Delete all tables."""
        for ruleset in self._rulesets:
            # What was never loaded can't be deleted.
            with suppress(PyproxyError):
                self._nft(ruleset.gone())

    def _put(self, on: bool) -> None:
        self._nft("".join(each.on() if on else each.off() for each in self._rulesets))

    def _nft(self, transaction: str) -> None:
        self._run(transaction, "nft", "-f", "-", package="nftables")


@contextmanager
def nftables_on(
    node: Node, crowd: Sequence[Object], dialled: Sequence[Object]
) -> Iterator[Nftables]:
    """Load the rules for services and slices of objects.py into a node, for a block; off at first.

    Only the `dialled` services translate. Raises PyproxyError with what nft said.
    """
    rulesets = [
        Ruleset(family, node.address(family), ports_of(dialled, family)) for family in (4, 6)
    ]
    with ExitStack() as undo:
        tracking = Tracking(node.netns)
        undo.callback(tracking.close)
        proxy = Nftables(node.netns, rulesets, tracking)
        undo.callback(proxy.unload)
        proxy.load(
            [
                list(ruleset.standing(ports_of(crowd, family)))
                for family, ruleset in zip((4, 6), rulesets, strict=True)
            ]
        )
        yield proxy

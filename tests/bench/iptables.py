# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's iptables rules in a node's network namespace, put on the path and taken off.

By iptables-nft, which today's distributions call iptables: its tables can be deleted again. The
older one leaves its hooks in the namespace for good, and with them nothing is without a proxy.
All is loaded anew at each turn: this is for few services.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.chains import restore_text
from tests.bench.netfilter import Rules, Tracking
from tests.bench.objects import Object
from tests.bench.ruleset import ports_of
from tests.lab.hosts import Node

RESTORE = {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"}
TABLES = ("filter", "nat")


class Iptables(Rules):
    """The rules of both families in a node's namespace; see iptables_on()."""

    def __init__(self, namespace: Path, texts: Mapping[int, str], tracking: Tracking) -> None:
        super().__init__(namespace, tracking)
        self._texts = texts

    def _put(self, on: bool) -> None:
        if on:
            for family, text in self._texts.items():
                self._run(text, RESTORE[family], "--noflush", package="iptables")
        else:
            # iptables has no word for it
            lines = [f"delete table {ip} {table}\n" for ip in ("ip", "ip6") for table in TABLES]
            self._run("".join(lines), "nft", "-f", "-", package="nftables")


@contextmanager
def iptables_on(node: Node, objects: Sequence[Object]) -> Iterator[Iptables]:
    """Have the rules for services and slices of objects.py for a block; they are off at first.

    Turning them on raises PyproxyError with what iptables-restore said.
    """
    texts = {family: restore_text(ports_of(objects, family)) for family in RESTORE}
    with ExitStack() as undo:
        tracking = Tracking(node.netns)
        undo.callback(tracking.close)
        rules = Iptables(node.netns, texts, tracking)
        undo.callback(rules.turn, False)
        yield rules

# SPDX-License-Identifier: Apache-2.0
"""Two connection tables of different sizes, and conversations that move from one to the other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel import load
from pyproxy.kernel.features import probe
from pyproxy.kernel.move import Move
from pyproxy.kernel.pins import remove_tree
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Key, Record
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, End

TCP, UDP = Protocol.TCP, Protocol.UDP
FEW = 64
HAIRPIN = 7  # a service whose client is its backend


@contextmanager
def with_few(node: Node, directory: Path) -> Iterator[Node]:
    """Give the same node as its programs with a small connection table see it."""
    features, sizes = probe(), Sizes(max_connections=FEW)
    root = node.bpffs / "pyproxy"
    requests = [load.Request(root, family, features, sizes) for family in Family]
    load.finish(load.start(requests))
    found = copy.copy(node)
    found.loaded = {
        each.family: node.loaded[each.family]._replace(request=each, digest=each.build().digest)
        for each in requests
    }
    found.entries(directory).join()
    yield found
    for each in found.loaded.values():
        remove_tree(each.programs)
        remove_tree(each.connections)


class Tables(NamedTuple):
    """The hooks of the programs with the old table, and of those with the new one."""

    old: Hooks
    new: Hooks

    def move(self) -> Move:
        """Return the move from one to the other."""
        directories = (each.node.loaded[each.family].connections for each in self)
        return Move(*directories)


@contextmanager
def two_tables(nodes: tuple[Node, Node], family: Family, directory: Path) -> Iterator[Tables]:
    """Give both tables, empty, and a service for each protocol."""
    with ExitStack() as undo:
        old, new = (
            undo.enter_context(Hooks(each, family, Wire.ETHERNET, directory)) for each in nodes
        )
        for protocol in (TCP, UDP):
            nodes[0].apply(plan(family, protocol))
            nodes[0].apply(plan(family, protocol, HAIRPIN, [HAIRPIN], local=1))
        old.write_device(node_address(family))
        yield Tables(old, new)


class Conversation(NamedTuple):
    """A client and a service's backend."""

    protocol: Protocol
    client: End
    frontend: End
    backend: End

    def begin(self, hooks: Hooks) -> None:
        """Send the first packet."""
        packet = hooks.first(self.protocol, self.client, self.frontend)
        arrives = hooks.first(self.protocol, self.client, self.backend)
        assert hooks.ingress(packet) == passed(arrives)

    def answer(self, hooks: Hooks) -> None:
        """Send the backend's first packet."""
        packet = hooks.answer(self.protocol, self.backend, self.client)
        arrives = hooks.answer(self.protocol, self.frontend, self.client)
        assert hooks.egress(packet) == passed(arrives)

    def go_on(self, hooks: Hooks) -> None:
        """Send a packet of the client's in mid-stream."""
        before, after = (
            hooks.udp(self.client, to) if self.protocol is UDP else hooks.tcp(self.client, to, ACK)
            for to in (self.frontend, self.backend)
        )
        assert hooks.ingress(before) == passed(after)

    def talk(self, hooks: Hooks) -> None:
        """Send the first packets both ways, and another one."""
        self.begin(hooks)
        self.answer(hooks)
        self.go_on(hooks)


def conversation(family: Family, protocol: Protocol, port: int) -> Conversation:
    """Return one with the first service."""
    return Conversation(protocol, client(family, 1, port), frontend(family), backend(family))


def hairpin(family: Family, protocol: Protocol, port: int) -> Conversation:
    """Return one in which the client is the backend, which must see another address."""
    b = backend(family, HAIRPIN)
    return Conversation(protocol, End(b.address, port), frontend(family, HAIRPIN), b)


def by_client(hooks: Hooks) -> dict[End, Record]:
    """Return the records that entries lead to, by client, their numbers and check words apart."""
    return {each.client: each._replace(number=0) for each in hooks.table.records()}


def leads(hooks: Hooks) -> dict[Key, tuple[End, int]]:
    """Return what leads to which client's connection, and as what."""
    return {
        key: (hooks.table.record(to.number).client, to.role)
        for key, to in hooks.table.entries().items()
    }


def numbers(hooks: Hooks) -> list[int]:
    """Return the numbers that entries lead to."""
    return [each.number for each in hooks.table.records()]

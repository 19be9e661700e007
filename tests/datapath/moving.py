# SPDX-License-Identifier: Apache-2.0
"""Two connection tables of different sizes, and conversations that move from one to the other."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from pyproxy.kernel import libbpf, load
from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.kernel.move import Move
from pyproxy.kernel.pins import remove_tree
from pyproxy.kernel.programs import ADOPT, MOVE
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Key, Record
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node, requests_for
from tests.datapath.packets import End

TCP, UDP = Protocol.TCP, Protocol.UDP
FEW = 64
HAIRPIN = 7  # a service whose client is its backend


@contextmanager
def with_table(node: Node, directory: Path, entries: int) -> Iterator[Node]:
    """Give the same node as its programs with a connection table of another size see it."""
    requests = requests_for(node.bpffs / "pyproxy", Sizes(max_connections=entries))
    load.finish(load.start(requests))
    found = copy.copy(node)
    found.loaded = {
        each.family: node.loaded[each.family]._replace(request=each, digest=each.build().digest)
        for each in requests
    }
    found.entries(directory).join()
    for each in node.loaded.values():
        each.pins.mark_used(each.request.sizes.max_connections)
    yield found
    for each in found.loaded.values():
        remove_tree(each.programs)
        remove_tree(each.connections)


class Adoption:
    """Programs that bring connections along from a node's former tables, the newest first."""

    def __init__(self, new: Node, *formers: Node) -> None:
        self.requests = {family: copy.copy(each.request) for family, each in new.loaded.items()}
        for family, request in self.requests.items():
            request.formers = tuple(each.loaded[family].connections for each in formers)
        load.finish(load.start(list(self.requests.values())))
        names = [
            load.of_former(program, n) for program in (ADOPT, MOVE) for n in range(len(formers))
        ]
        directories = [each.programs for each in new.loaded.values()]
        pins = [directory / name for directory in directories for name in names]
        self._programs = {pin: libbpf.obj_get(str(pin)) for pin in pins}

    def move(self, family: Family) -> Move:
        """Return the move of one family's connections."""
        return Move(self.requests[family])

    def end(self) -> None:
        """Let packets be looked for no more, and have all ready for the next move."""
        for request in self.requests.values():
            load.look_back(request.pins.programs(request.build().digest), 0)
        for pin, fd in self._programs.items():
            libbpf.obj_pin(fd, str(pin))

    @contextmanager
    def lent(self) -> Iterator[Self]:
        """Give it to one test, ready for a move, whatever others had pinned in its place."""
        self.end()
        yield self
        self.end()

    def close(self) -> None:
        """Forget the programs."""
        for pin, fd in self._programs.items():
            pin.unlink(missing_ok=True)
            os.close(fd)


class Tables(NamedTuple):
    """The hooks of the programs with the old table, and of those with the new one."""

    old: Hooks
    new: Hooks
    move: Move


@contextmanager
def hooks_of(nodes: Sequence[Node], family: Family, directory: Path) -> Iterator[list[Hooks]]:
    """Give the hooks of the same node with other tables, empty, and a service for each protocol."""
    with ExitStack() as undo:
        hooks = [
            undo.enter_context(Hooks(each, family, Wire.ETHERNET, directory)) for each in nodes
        ]
        for protocol in (TCP, UDP):
            nodes[0].apply(plan(family, protocol))
            nodes[0].apply(plan(family, protocol, HAIRPIN, [HAIRPIN], local=1))
        hooks[0].write_device(node_address(family))
        yield hooks


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
            hooks.further(self.protocol, self.client, to) for to in (self.frontend, self.backend)
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


@contextmanager
def own_frontend(hooks: Hooks) -> Iterator[End]:
    """Give a UDP service by an address of the node, from which its own sockets may send."""
    family = hooks.family
    found = End(node_address(family, 9), 53)
    made = plan(family, Protocol.UDP, 9, [1], frontends=[found], kind=Kind.EXTERNAL_IP, local=1)
    hooks.node.apply(made)
    hooks.path.write_addresses({found.address: NodeAddressFlag.PORTS})
    try:
        yield found
    finally:
        hooks.path.write_addresses({})
        hooks.node.remove(made)

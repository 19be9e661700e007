# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's packet cases in the kernel: a case's services, settings and addresses."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

from pyproxy.kernel.addresses import LOOPBACK, address_flags
from pyproxy.model import Address, Family, family_of
from pyproxy.plan.connection import Connection, Decision
from pyproxy.plan.decide import decide, tables_of
from pyproxy.plan.options import IPV6_LOOPBACK, Mode, Options
from pyproxy.plan.world import World
from tests.datapath.node import Node
from tests.flows.load import Case, Flow
from tests.lab.evenness import evenness

DRAWS = 200  # for each endpoint
IMPROBABLE = 1e-7  # there are hundreds of flows
ON_THE_NODE = {"node", "localhost"}  # their sockets are translated, not their packets


def write_case(node: Node, case: Case) -> World:
    """Write a case's services and the node's addresses; settings are for who sends."""
    node.clear()
    world = case.world()
    world.replan()
    node.apply(*world.plans.values())
    strict = world.options.mode is Mode.NFTABLES
    for family, each in node.loaded.items():
        own = [c for c in world.options.service_cidrs if family_of(c.address) is family]
        each.datapath.restrict(tuple(own) if strict else None)
        each.path.write_addresses(address_flags(own_addresses(family, case), world.options))
    return world


def own_addresses(family: Family, case: Case) -> list[Address]:
    """Return the node's addresses: its own, loopback, and those that it speaks with."""
    options: Options = case.options()
    mine = {*options.local_addresses, LOOPBACK, IPV6_LOOPBACK.address}
    mine |= {flow.connection.source for flow in case.flows if flow.role in ON_THE_NODE}
    return sorted(address for address in mine if family_of(address) is family)


def uneven(flow: Flow, counts: Counter[str]) -> Iterator[str]:
    """Yield what is wrong with how often each backend was drawn for a flow."""
    assert not isinstance(flow.expect, str)
    if set(counts) != flow.expect:
        yield f"{flow.name}: expected {sorted(flow.expect)}, got {sorted(counts)}"
    elif evenness(list(counts.values())) < IMPROBABLE:
        yield f"{flow.name}: not alike: {counts}"


def forget_case(node: Node) -> None:
    """Leave nothing of a case."""
    node.clear()
    node.configure()
    for each in node.loaded.values():
        each.datapath.restrict(None)
        each.path.write_addresses({})
        each.path.write_devices({})


def decider(world: World) -> Callable[[Connection], Decision]:
    """Return the model's decision about connections in a world."""
    tables = tables_of(world.plans.values(), world.health_check_node_ports().values())
    return lambda connection: decide(connection, tables, world.options)


def spoiled(flow: Flow, draw: random.Random) -> Flow:
    """Return a flow that expects something else than kube-proxy does."""
    others = [
        flow._replace(expect="PASS" if flow.expect in {"DROP", "REJECT"} else "DROP"),
        flow._replace(expect="DROP" if flow.expect == "REJECT" else "REJECT"),
        flow._replace(expect=frozenset({"10.99.99.99:1"})),
    ]
    if isinstance(flow.expect, frozenset) and len(flow.expect) > 1:
        others.append(flow._replace(expect=frozenset(sorted(flow.expect)[1:])))
    return draw.choice(others)

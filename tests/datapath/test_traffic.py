# SPDX-License-Identifier: Apache-2.0
"""What is counted for each service: connections by who began them, packets, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyproxy.agent.traffic import ServiceTraffic
from pyproxy.kernel import source
from pyproxy.kernel.traffic import Traffic
from pyproxy.model import Family, Protocol, ServicePortName
from pyproxy.tables import ServiceCounters
from tests.datapath.asking import ask_connected
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flavours import Flavour
from tests.datapath.hooks import Hooks, Wire
from tests.datapath.node import Node
from tests.datapath.packets import ACK, End
from tests.datapath.pieces import cut
from tests.datapath.services import service, service_name

TCP, UDP = Protocol.TCP, Protocol.UDP


def counted(node: Node, family: Family) -> dict[str, ServiceCounters]:
    """Return the counters of all services of a family, by their names."""

    def ids(of: Family) -> dict[ServicePortName, int]:
        programmed = node.syncers[of].books.programmed
        return {name: entry.service for name, entry in programmed.items()}

    pins = {each: loaded.pins for each, loaded in node.loaded.items()}
    with closing(ServiceTraffic(pins, ids)) as traffic:
        return {name.name: each for (of, name), each in traffic().items() if of is family}


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an Ethernet device."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


@pytest.mark.kernel
def test_packets_count_for_the_service_of_their_connection(
    hooks: Hooks, protocol: Protocol
) -> None:
    """Requests and answers count once each, with their bytes from the IP header on."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol, 1), plan(family, protocol, 2))
    sent = [hooks.first(protocol, client(family), frontend(family, 1))]
    sent.append(hooks.answer(protocol, backend(family, 1), client(family)))
    hooks.ingress(sent[0])
    hooks.egress(sent[1])
    if protocol is TCP:
        sent.append(hooks.tcp(client(family), frontend(family, 1), ACK))
        hooks.ingress(sent[2])
    other = hooks.first(protocol, client(family, 2), frontend(family, 2))
    hooks.ingress(other)
    name, second = (service_name(n, protocol).name for n in (1, 2))
    assert counted(hooks.node, family) == {
        name: ServiceCounters(0, 1, len(sent), sum(len(each) for each in sent)),
        second: ServiceCounters(0, 1, 1, len(other)),
    }


def test_fragments_count_as_the_packets_that_they_are(hooks: Hooks) -> None:
    """Later ones, too: most of what a service has may be in those."""
    family = hooks.family
    hooks.node.apply(plan(family, UDP))
    c, f, b = client(family), frontend(family), backend(family)
    asked, answered = (cut(hooks.udp(*ends, bytes(280))) for ends in ((c, f), (b, c)))
    for each in asked:
        hooks.ingress(each)
    for each in answered:
        hooks.egress(each)
    sent = [*asked, *answered]
    (found,) = counted(hooks.node, family).values()
    assert found == ServiceCounters(0, 1, len(sent), sum(map(len, sent)))


def test_what_is_no_services_counts_for_nobody(hooks: Hooks) -> None:
    """Packets that are not translated are counted nowhere."""
    family = hooks.family
    hooks.node.apply(plan(family, UDP))
    hooks.ingress(hooks.first(UDP, client(family), End(backend(family).address, 9)))
    assert set(counted(hooks.node, family).values()) == {ServiceCounters(0, 0, 0, 0)}


@pytest.mark.kernel
def test_sockets_count_when_they_get_a_backend(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A connect() counts one; so do an unconnected socket's datagrams to one service together."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    with node.socket(flavour, protocol) as sock:
        sock.connect(flavour.service(1))
        ask_connected(sock)
    expected = 1
    if protocol is UDP:
        with node.socket(flavour, protocol) as sock:
            for _ in range(3):
                sock.sendto(b"x", flavour.service(1))
        expected = 2
    name = service_name(1, protocol).name
    assert counted(node, flavour.family) == {name: ServiceCounters(expected, 0, 0, 0)}


def test_counters_begin_with_zeros(hooks: Hooks) -> None:
    """An id that is given to another service brings nothing along, whatever CPU has counted."""
    family, node = hooks.family, hooks.node
    node.apply(plan(family, UDP))
    hooks.ingress(hooks.first(UDP, client(family), frontend(family)))
    datapath = node.loaded[family].datapath
    (number,) = datapath.read_names()
    with closing(Traffic(node.loaded[family].pins)) as traffic:
        assert traffic.read([number])[number].packets == 1
        datapath.forget_counters([number])
        assert traffic.read([number]) == {number: ServiceCounters(0, 0, 0, 0)}


@pytest.mark.parametrize(("cpus", "shards"), [(1, 1), (2, 2), (3, 4), (32, 32), (33, 32)])
def test_cpus_share_shards_only_where_there_are_many(cpus: int, shards: int) -> None:
    """Every CPU counts in a part of its own, up to 32 of them."""
    assert source.shards_for(cpus) == shards

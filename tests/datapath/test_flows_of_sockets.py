# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's packet cases on real maps: what processes of the node ask, by real sockets.

They run in the node's namespace with the case's addresses; what they send leaves by a device on
which nobody answers, so that a connection attempt lasts as long as it is looked at.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest

from pyproxy.kernel.addresses import NODE, DeviceFacts
from pyproxy.model import Address, Family, Protocol, address_text, endpoint_text, family_of
from pyproxy.plan.connection import Connection
from pyproxy.plan.options import Options
from pyproxy.plan.world import World
from tests.datapath.hooks import Hooks, Wire
from tests.datapath.node import Node, run_ip
from tests.datapath.packets import End
from tests.datapath.peers import Peers
from tests.datapath.prog_run import TC_DROP
from tests.datapath.staging import (
    DRAWS,
    ON_THE_NODE,
    forget_case,
    own_addresses,
    spoiled,
    uneven,
    write_case,
)
from tests.flows.load import KUBE_PROXY, Case, Flow, read_flow_file

KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
DOMAINS = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
EVERYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
DEVICE = "away0"


class Stage:
    """A node's namespace with a case's addresses and a way out."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        self._directory = directory
        self._addresses: set[Address] = set()
        self._peers = Peers(node)
        run_ip(node.namespace, f"link add {DEVICE} type veth peer name {DEVICE}-peer",
               f"link set {DEVICE} up", f"link set {DEVICE}-peer up")  # fmt: skip

    def close(self) -> None:
        """Leave nothing of a case."""
        self._give(set())
        self._peers.close()
        run_ip(self._node.namespace, f"link del {DEVICE}")
        forget_case(self._node)

    def set_up(self, case: Case) -> World:
        """Write a case as an agent of the node does, and give the node its addresses."""
        world = write_case(self._node, case)
        options = world.options
        self._node.configure(options=options)
        wanted: set[Address] = set()
        for family, each in self._node.loaded.items():
            own = options.node_ip(family)
            each.path.write_devices({NODE: DeviceFacts(own, 0)})
            mine = own_addresses(family, case)
            wanted |= {a for a in mine if not ip_address(a).is_loopback}
        self._give(wanted)
        self._lead_out(options)
        return world

    def _give(self, wanted: set[Address]) -> None:
        gone = [f"addr del {_host(a)} dev lo" for a in sorted(self._addresses - wanted)]
        new = [f"addr add {_host(a)} dev lo" for a in sorted(wanted - self._addresses)]
        run_ip(self._node.namespace, *gone, *new)
        self._addresses = wanted

    def _lead_out(self, options: Options) -> None:
        run_ip(self._node.namespace, *(
            f"route replace {EVERYWHERE[family]} dev {DEVICE} src {address_text(own)}"
            for family in Family
            if (own := options.node_ip(family)) in self._addresses
        ))  # fmt: skip

    def try_one(self, flow: Flow, options: Options) -> Iterator[str]:
        """Ask as a flow does; yield what is wrong with what becomes of it."""
        asked = flow.connection
        if isinstance(flow.expect, str):
            wanted = "PASS" if flow.expect == "ACCEPT" else flow.expect
            if (verdict := self._verdict(asked)) != wanted:
                yield f"{flow.name}: expected {wanted}, got {verdict}"
            return
        drawn = Counter(self._ask(asked) for _ in range(DRAWS * len(flow.expect)))
        ends = Counter(end for end, _ in drawn.elements())
        yield from uneven(flow, ends)
        nodes = {address_text(address) for address in options.local_addresses}
        if not {source for _, source in drawn} <= nodes:
            yield f"{flow.name}: asks with {sorted({source for _, source in drawn} - nodes)}"

    def _ask(self, asked: Connection) -> tuple[str, str]:
        """Return the backend that a new socket gets, "" for none, and its own address."""
        family = family_of(asked.destination)
        kind = KINDS[Protocol(asked.protocol)]
        with self._node.make_socket(DOMAINS[family], kind) as sock:
            sock.setblocking(False)
            sock.connect_ex((address_text(asked.destination), asked.port))
            backend = self._peers.of(sock, family)
            return endpoint_text(*backend) if backend else "", sock.getsockname()[0]

    def _verdict(self, asked: Connection) -> str:
        """Return what becomes of a new socket that gets no backend."""
        family = family_of(asked.destination)
        before = self._node.counters(family)["refused"]
        backend, _ = self._ask(asked)
        if backend:
            return backend
        if self._node.counters(family)["refused"] > before:
            return "REJECT"
        if asked.destination in self._addresses or ip_address(asked.destination).is_loopback:
            return "PASS"  # by a device without programs
        with Hooks(self._node, family, Wire.ETHERNET, self._directory) as hooks:
            ends = End(asked.source, 40_000), End(asked.destination, asked.port)
            packet = hooks.first(Protocol(asked.protocol), *ends)
            return "DROP" if hooks.egress(packet).verdict == TC_DROP else "PASS"


def _host(address: Address) -> str:
    return f"{address_text(address)}/{8 * len(address)}"


@pytest.fixture(scope="module")
def stage(whole_run: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The node."""
    with closing(Stage(whole_run, tmp_path_factory.mktemp("flows"))) as made:
        yield made


def test_sockets_of_the_node_go_where_kube_proxy_sends_them(stage: Stage, flow_case: Case) -> None:
    """Each flow of the node has its verdict, backends, shares and source."""
    flows = [flow for flow in flow_case.flows if flow.role in ON_THE_NODE]
    if not flows:
        return
    world = stage.set_up(flow_case)
    complaints: list[str] = []
    for flow in flows:
        complaints += stage.try_one(flow, world.options)
    assert complaints == []


def test_wrong_expectations_of_sockets_are_noticed(stage: Stage) -> None:
    """One changed expectation is one complaint or more."""
    random = Random(4)
    cases = [
        case
        for case in read_flow_file(KUBE_PROXY).cases
        if any(flow.role in ON_THE_NODE for flow in case.flows)
    ]
    for case in random.sample(cases, 15):
        options = stage.set_up(case).options
        for flow in case.flows:
            if flow.role not in ON_THE_NODE or flow.connection.protocol == Protocol.SCTP:
                continue
            wrong = spoiled(flow, random)
            assert list(stage.try_one(wrong, options)), (case.id, wrong)

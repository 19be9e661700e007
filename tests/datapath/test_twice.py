# SPDX-License-Identifier: Apache-2.0
"""A packet that comes in by two covered devices, one upon the other, is translated once.

A bridge has the address of one of its ports by default, so that what is for the node is for that
port, too; a bond and its devices share one address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.kernel.addresses import device_facts, local_prefixes, node_addresses
from pyproxy.kernel.devices import devices
from pyproxy.kernel.programs import TCX_EGRESS
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import Kind
from tests.datapath.covering import Covering, covering, foreign, linked
from tests.datapath.flavours import PORT, PROTOCOLS
from tests.datapath.node import Node, run_ip
from tests.datapath.services import service
from tests.datapath.talking import Talking
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, SERVICE_AT, Wire, end_address

BRIDGE = "bridge"
BEYOND = "10.2.0.3"
PROGRAMS = (("every", False), ("indexed", True))


@pytest.fixture
def bridged(node: Node, wire: Wire, tmp_path: Path, tcx: bool) -> Iterator[Covering]:
    """The near device as the only port of a bridge, both covered."""
    run_ip(
        wire.paths[NEAR],
        f"link add {BRIDGE} type bridge",
        f"addr flush dev {DEVICE}",
        f"link set {DEVICE} master {BRIDGE}",
        f"link set {BRIDGE} up",
    )
    wire.address(NEAR, BRIDGE)
    with covering(node, wire, tmp_path, tcx=tcx) as made:
        assert made.attach(wire.inside(devices)) == {}
        yield made


def test_a_connection_by_a_port_that_has_the_bridges_address(
    bridged: Covering, node: Node, wire: Wire, family: Family
) -> None:
    """The second device takes it for no connection of the backend's own."""
    node.apply(service(family, SERVICE_AT[NEAR], [1], local=1))
    with ExitStack() as undo:
        node.forget_connections()
        undo.callback(node.forget_connections)
        talking = Talking(wire, family, undo)
        before = node.counters(family)
        for _ in range(2):
            talking.connect()
        talking.talk()
        grown = {name: n - before[name] for name, n in node.counters(family).items()}
    assert grown["packet_open"] == 2
    assert grown["packet_in"] > 2
    assert grown["packet_clash"] == 0
    assert len(bridged.pins) in (0, 4)


@pytest.fixture
def uplink(bridged: Covering, node: Node, wire: Wire) -> Iterator[None]:
    """The bridge as the node's uplink, with a service whose backend is elsewhere beyond it."""
    forwarding(wire)
    path, options = node.loaded[Family.IPV4].path, Options("here")
    facts = wire.inside(lambda: device_facts(Family.IPV4, devices(), options))
    addresses = wire.inside(lambda: node_addresses(local_prefixes(Family.IPV4, devices()), options))
    for protocol in PROTOCOLS:
        made = service(Family.IPV4, SERVICE_AT[NEAR], [1], protocol=protocol)
        (some,), (front,) = made.backends, made.frontends
        elsewhere = some._replace(address=socket.inet_aton(BEYOND))
        outside = front._replace(kind=Kind.EXTERNAL_IP)
        node.apply(made._replace(backends=(elsewhere,), members=(), frontends=(outside,)))
    with ExitStack() as undo:
        undo.callback(path.write_devices, {})
        undo.callback(path.write_addresses, {})
        node.forget_connections()
        undo.callback(node.forget_connections)
        path.write_devices(facts)
        path.write_addresses(addresses)
        assert len(bridged.pins) in (0, 4)
        yield


@pytest.mark.usefixtures("uplink")
def test_a_hidden_client_by_a_bridge(node: Node, wire: Wire, protocol: Protocol) -> None:
    """What leaves by the bridge and by its port gets one source, and the answer comes back."""
    to = FLAVOURS[Family.IPV4].service(SERVICE_AT[NEAR])
    before = node.counters(Family.IPV4)
    with (
        wire.socket(FAR, Family.IPV4, protocol) as backend,
        wire.socket(FAR, Family.IPV4, protocol) as client,
    ):
        backend.bind((BEYOND, PORT))
        if protocol is Protocol.TCP:
            backend.listen()
            client.connect(to)
            served, peer = backend.accept()
            with served:
                served.sendall(b"answer")
                assert client.recv(64) == b"answer"
        else:
            client.sendto(b"question", to)
            _, peer = backend.recvfrom(64)
            backend.sendto(b"answer", peer)
            assert client.recvfrom(64) == (b"answer", to)
    assert peer[0] == end_address(Family.IPV4, NEAR)
    grown = {name: n - before[name] for name, n in node.counters(Family.IPV4).items()}
    assert grown["packet_source"] == grown["packet_open"] == 1
    assert grown["packet_apart"] == 0


def test_a_packet_that_leaves_says_nothing_any_more(node: Node, wire: Wire, tmp_path: Path) -> None:
    """It may come in on another node whose devices are in the same kernel, as in kind."""
    if not libbpf.tcx_exists():
        return  # who comes after ours is told by tcx alone
    forwarding(wire)
    flavour = FLAVOURS[Family.IPV4]
    plan = service(Family.IPV4, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP)
    (some,) = plan.backends
    elsewhere = some._replace(address=socket.inet_aton(BEYOND))
    node.apply(plan._replace(backends=(elsewhere,), members=()))
    with ExitStack() as undo:
        node.forget_connections()
        undo.callback(node.forget_connections)
        undo.enter_context(covering(node, wire, tmp_path, tcx=True))
        seen = [undo.enter_context(foreign(node, name, indexed=x)) for name, x in PROGRAMS]
        for program in seen:
            undo.enter_context(linked(wire, program, attach_type=TCX_EGRESS))
        backend = undo.enter_context(wire.socket(FAR, Family.IPV4, Protocol.UDP))
        client = undo.enter_context(wire.socket(FAR, Family.IPV4, Protocol.UDP))
        backend.bind((BEYOND, some.port))
        client.sendto(b"forward", flavour.service(SERVICE_AT[NEAR]))
        assert backend.recv(64) == b"forward"
        every, indexed = (program.seen for program in seen)
    assert every > 0
    assert indexed == 0


def forwarding(wire: Wire) -> None:
    """Have the near side forward, and the far side take its own packets at a second address."""
    ipv4 = Path("/proc/sys/net/ipv4")
    wire.inside(lambda: (ipv4 / "ip_forward").write_text("1", encoding="ascii"))
    accepts = ipv4 / "conf/all/accept_local"
    wire.inside(lambda: accepts.write_text("1", encoding="ascii"), FAR)
    run_ip(wire.paths[FAR], f"addr add {BEYOND}/24 dev {DEVICE}")

# SPDX-License-Identifier: Apache-2.0
"""Rule 15: who came by an uplink is answered by it, whichever one routes choose."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.kernel.addresses import device_facts
from pyproxy.kernel.devices import devices
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import Backend
from tests.datapath.covering import Covering, covering
from tests.datapath.flavours import PORT, SERVICE_PORT, service_address
from tests.datapath.node import Node, run_ip
from tests.datapath.packets import IP_BYTES, SYN, End, tcp, udp
from tests.datapath.services import USABLE, service
from tests.datapath.tunnel import TUN, Tunnel, tunnel
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, SERVICE_AT, Wire, end_address, talk
from tests.lab import netns
from tests.lab.waiting import wait_for

IPV4 = Family.IPV4
SECOND = "second"
TENTATIVE = 0x40  # include/uapi/linux/if_addr.h
# all clients are the cluster's own: none needs an address of this node
HERE = Options("here", local_cidrs=(Prefix(bytes(4), 0), Prefix(bytes(16), 0)))
EVERYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
# the client's own address, and both ends of the second uplink
OUTSIDE = {Family.IPV4: "10.9.0.2", Family.IPV6: "fd00:9::2"}
NEAR_END = {Family.IPV4: "10.3.0.1", Family.IPV6: "fd00:3::1"}
FAR_END = {Family.IPV4: "10.3.0.2", Family.IPV6: "fd00:3::2"}


@pytest.fixture
def covered(node: Node, tmp_path: Path) -> Iterator[Covering]:
    """The packet path on two uplinks; the client comes by one, routes lead back by the other."""
    with ExitStack() as undo:
        wire = Wire(node, undo)
        near, far = wire.paths[NEAR], wire.paths[FAR]
        run_ip(near, f"link add {SECOND} type veth peer name {SECOND} netns {far}")
        for path in (near, far):
            run_ip(path, f"link set {SECOND} up")
        for family in Family:
            uplinks(wire, family)
        for path in (near, far):
            netns.inside(path, accept_by_any)
        for path in (near, far):
            netns.inside(path, settled)
        for family in Family:
            netns.inside(near, partial(meet, end_address(family, FAR)))
        with covering(node, wire, tmp_path, tcx=libbpf.tcx_exists()) as made:
            assert made.attach(wire.inside(devices)) == {}
            yield made


def settled() -> None:
    """Wait until neighbours can be asked for by every device."""
    wait_for(lambda: not tentative(), 10, "addresses that are not tentative")


def meet(address: str) -> None:
    """Learn who has a gateway's address: what is redirected before that is lost (bpf/back.c)."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(10)
        assert sock.connect_ex((address, 9)) == errno.ECONNREFUSED


def tentative() -> list[str]:
    """Return the addresses by which nobody can be asked for a neighbour yet (RFC 4862 5.4)."""
    lines = Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines()
    return [line for line in lines if int(line.split()[4], 16) & TENTATIVE]


def accept_by_any() -> None:
    """Take packets by a device by which none would be sent back (rp_filter)."""
    for device in ("all", DEVICE, SECOND):
        sysctls = Path(f"/proc/sys/net/ipv4/conf/{device}")
        (sysctls / "rp_filter").write_text("0", encoding="ascii")
        # the backend's address is also on the other side, where nobody would answer it
        (sysctls / "arp_announce").write_text("2", encoding="ascii")


def forward() -> None:
    """Be a router."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1", encoding="ascii")


def uplinks(wire: Wire, family: Family) -> None:
    """Give both uplinks addresses; the second one is the better way to the client."""
    length, dad = (24, "") if family is IPV4 else (64, " nodad")
    whole = 32 if family is IPV4 else 128
    run_ip(
        wire.paths[FAR],
        f"addr add {FAR_END[family]}/{length} dev {SECOND}{dad}",
        f"addr add {OUTSIDE[family]}/{whole} dev lo{dad}",
    )
    by_wire = f"{EVERYWHERE[family]} via {end_address(family, FAR)}"
    run_ip(
        wire.paths[NEAR],
        f"addr add {NEAR_END[family]}/{length} dev {SECOND}{dad}",
        f"route del {by_wire}",
        f"route add {by_wire} metric 500",
        f"route add {EVERYWHERE[family]} via {FAR_END[family]} metric 100",
    )


@contextmanager
def steering(covered: Covering, family: Family, options: Options = HERE) -> Iterator[None]:
    """Tell the packet path what there is, as an agent in the near namespace does."""
    path = covered.node.loaded[family].path
    facts = covered.wire.inside(lambda: device_facts(family, devices(), HERE))
    covered.node.configure(options=options)
    path.write_devices(facts)
    try:
        yield
    finally:
        path.write_devices({})
        covered.node.configure()


def received(wire: Wire) -> dict[str, int]:
    """Return how many packets the client's host got by each device."""

    def work() -> dict[str, int]:
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]
        parts = [line.replace(":", " ").split() for line in lines]
        return {part[0]: int(part[2]) for part in parts}

    return netns.inside(wire.paths[FAR], work)


def answered_by(covered: Covering, family: Family, protocol: Protocol) -> dict[str, int]:
    """Let the client talk; return how many packets came back by each device."""
    wire = covered.wire
    covered.node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=protocol))
    before = received(wire)
    talk(wire, family, protocol, source=OUTSIDE[family])
    after = received(wire)
    return {name: after[name] - before[name] for name in (DEVICE, SECOND)}


@pytest.mark.kernel
def test_rule_15_answers_leave_by_the_clients_uplink(
    covered: Covering, family: Family, protocol: Protocol
) -> None:
    """None comes by the other one, though that is where the route leads."""
    before = covered.node.counters(family)
    with steering(covered, family):
        found = answered_by(covered, family, protocol)
    after = covered.node.counters(family)
    sent_back, answers = (after[name] - before[name] for name in ("packet_back", "packet_out"))
    assert sent_back == answers
    assert found[DEVICE] >= answers


def test_rule_15_so_do_all_fragments_of_an_answer(covered: Covering, family: Family) -> None:
    """Only the first one has ports."""
    wire, flavour = covered.wire, FLAVOURS[family]
    covered.node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP))
    with (
        steering(covered, family),
        wire.socket(NEAR, family, Protocol.UDP) as backend,
        wire.socket(FAR, family, Protocol.UDP) as client,
    ):
        backend.bind(flavour.backend(1))
        client.bind((OUTSIDE[family], 0))
        client.sendto(b"much", flavour.service(SERVICE_AT[NEAR]))
        _, peer = backend.recvfrom(64)
        before = covered.node.counters(family)
        backend.sendto(bytes(4_000), peer)
        assert client.recv(8_000) == bytes(4_000)
        after = covered.node.counters(family)
    for name in ("packet_out", "packet_back"):
        assert after[name] - before[name] == 3


def test_rule_15_fragments_of_a_request_leave_by_routes(covered: Covering, family: Family) -> None:
    """Their client's uplink is the way to it, not to the backend."""
    wire, flavour = covered.wire, FLAVOURS[family]
    covered.wire.inside(forward)
    address = ipaddress.ip_address(FAR_END[family]).packed
    backend = Backend(address, PORT, USABLE, "elsewhere")
    plan = service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP)
    member = plan.members[0]._replace(address=address, port=PORT)
    covered.node.apply(plan._replace(backends=(backend,), members=(member,)))
    with (
        steering(covered, family, HERE._replace(masquerade_all=True)),
        wire.socket(FAR, family, Protocol.UDP) as server,
        wire.socket(FAR, family, Protocol.UDP) as client,
    ):
        server.bind((FAR_END[family], PORT))
        client.bind((OUTSIDE[family], 0))
        before = covered.node.counters(family)
        client.sendto(bytes(4_000), flavour.service(SERVICE_AT[NEAR]))
        data, peer = server.recvfrom(8_000)
        after = covered.node.counters(family)
    assert (data, peer[0]) == (bytes(4_000), NEAR_END[family])
    grown = {name: after[name] - before[name] for name in ("packet_out", "packet_back")}
    assert grown == {"packet_out": 3, "packet_back": 0}


def test_rule_15_by_setting_routes_decide(
    covered: Covering, family: Family, protocol: Protocol
) -> None:
    """sameUplink: false; so it is where no uplink is known."""
    for options, knows in ((HERE._replace(same_uplink=False), True), (HERE, False)):
        with steering(covered, family, options):
            if not knows:
                covered.node.loaded[family].path.write_devices({})
            before = covered.node.counters(family)["packet_back"]
            found = answered_by(covered, family, protocol)
            assert found[SECOND]
            assert covered.node.counters(family)["packet_back"] == before


def test_rule_15_what_leaves_to_a_pod_goes_on(
    covered: Covering, family: Family, protocol: Protocol
) -> None:
    """Routes lead there by a device that is no uplink: a client that has moved behind it, say."""
    with steering(covered, family):
        path = covered.node.loaded[family].path
        facts = covered.wire.inside(lambda: device_facts(family, devices(), HERE))
        second = covered.wire.inside(lambda: socket.if_nametoindex(SECOND))
        path.write_devices(facts | {second: facts[second]._replace(flags=0)})
        before = covered.node.counters(family)["packet_back"]
        assert answered_by(covered, family, protocol)[SECOND]
        assert covered.node.counters(family)["packet_back"] == before


def test_rule_15_an_uplink_without_a_route_back(
    covered: Covering, family: Family, protocol: Protocol
) -> None:
    """The answer takes the way that there is."""
    run_ip(
        covered.wire.paths[NEAR],
        f"route del {EVERYWHERE[family]} via {end_address(family, FAR)} metric 500",
    )
    with steering(covered, family):
        before = covered.node.counters(family)["packet_back"]
        assert answered_by(covered, family, protocol)[SECOND]
        assert covered.node.counters(family)["packet_back"] == before


@contextmanager
def with_tunnel(covered: Covering, family: Family, metric: int) -> Iterator[Tunnel]:
    """Give the near side a tunnel that leads everywhere, in place of the second uplink."""
    near = covered.wire.paths[NEAR]
    run_ip(near, f"route del {EVERYWHERE[family]} via {FAR_END[family]} metric 100")
    with tunnel(near, f"route add {EVERYWHERE[family]} dev {TUN} metric {metric}") as made:
        assert covered.attach(covered.wire.inside(devices)) == {}
        yield made


def test_rule_15_out_of_a_tunnel(covered: Covering, family: Family, protocol: Protocol) -> None:
    """What a route leads into one has no Ethernet header: it gets that of the client's uplink."""
    with with_tunnel(covered, family, 100), steering(covered, family):
        before = covered.node.counters(family)
        found = answered_by(covered, family, protocol)
        after = covered.node.counters(family)
    sent_back, answers = (after[name] - before[name] for name in ("packet_back", "packet_out"))
    assert sent_back == answers
    assert found[DEVICE] >= answers


def test_rule_15_into_a_tunnel(covered: Covering, family: Family, protocol: Protocol) -> None:
    """Who came by it is answered by it, without a gateway."""
    wire, flavour = covered.wire, FLAVOURS[family]
    covered.node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=protocol))
    client = End(ipaddress.ip_address(OUTSIDE[family]).packed, 4242)
    frontend = End(service_address(family, SERVICE_AT[NEAR]), SERVICE_PORT)
    with (
        with_tunnel(covered, family, 1000) as far_end,
        steering(covered, family),
        wire.socket(NEAR, family, protocol) as backend,
    ):
        backend.bind(flavour.backend(1))
        if protocol is Protocol.TCP:
            backend.listen()
            far_end.send(tcp(client, frontend, SYN))
        else:
            far_end.send(udp(client, frontend, b"who?"))
            _, peer = backend.recvfrom(64)
            backend.sendto(b"me", peer)
        answer = far_end.receive(lambda packet: frontend.address + client.address in packet[:40])
    ports = answer[IP_BYTES[family] :][:4]
    assert struct.unpack("!HH", ports) == (frontend.port, client.port)

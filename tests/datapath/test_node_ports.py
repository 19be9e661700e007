# SPDX-License-Identifier: Apache-2.0
"""What comes for a service by an address from outside: whose it is, and who sees the client."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import PODS, UPLINK, NodeAddressFlag
from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.options import DetectLocalMode, Mode, Options
from pyproxy.tables import Kind, PortPlan, ServiceFlag
from tests.datapath.ends import backend, client, node_address, packed, plan
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, RST, SYN, End
from tests.datapath.prog_run import TC_REDIRECT

TCP, UDP = Protocol.TCP, Protocol.UDP
NODE_PORT = 31_000
HAS, LOCAL = ServiceFlag.HAS_ENDPOINTS, ServiceFlag.EXTERNAL_LOCAL
EXTERNAL = [Kind.EXTERNAL_IP, Kind.LOAD_BALANCER, Kind.NODE_PORT]
HERE, THERE = 1, 2  # backends
SERVED, OTHER, ELSEWHERE = 1, 2, 3  # addresses: the node's, its own without NodePorts, another's


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink of a node with two addresses; its pods are known by theirs."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        found.path.write_addresses(
            {
                node_address(family, SERVED): NodeAddressFlag.PORTS,
                node_address(family, OTHER): NodeAddressFlag(0),
            }
        )
        yield found
        found.path.write_addresses({})
        found.path.write_networks({})


def external(family: Family) -> End:
    """Return an address from outside that is not the node's."""
    return End(packed(family, "203.0.113.7", "2001:db8::7"), 443)


def end_of(family: Family, kind: Kind, port: int = NODE_PORT) -> End:
    """Return what a client dials for a kind of frontend."""
    return End(node_address(family, SERVED), port) if kind is Kind.NODE_PORT else external(family)


def service(
    hooks: Hooks, protocol: Protocol, kind: Kind, flags: ServiceFlag = HAS, **more: int
) -> None:
    """Write a service with a backend on this node and one elsewhere, unless told otherwise."""
    hooks.node.apply(planned(hooks.family, protocol, kind, flags, **more))


def planned(
    family: Family, protocol: Protocol, kind: Kind, flags: ServiceFlag = HAS, local: int = 1
) -> PortPlan:
    """Return the plan of such a service; `local` backends of this node, 0 or 1."""
    anywhere = End(bytes(family.address_bytes), NODE_PORT)
    frontend = anywhere if kind is Kind.NODE_PORT else external(family)
    backends = [HERE, THERE] if local else [THERE]
    return plan(
        family, protocol, 1, backends, frontends=[frontend], kind=kind, local=local, flags=flags
    )


def recognise(hooks: Hooks, *, pod: bool, **options: object) -> None:
    """Let the client be a pod's or not, by its address."""
    family = hooks.family
    cidr = Prefix(client(family, 1 if pod else 9).address, 8 * family.address_bytes)
    hooks.configure(cidrs=(cidr,), options=Options("here")._replace(**options))  # type: ignore[arg-type]  # of several types


def backends_of(hooks: Hooks, protocol: Protocol, to: End, many: int = 40) -> set[End]:
    """Begin so many connections; return which backends they have."""
    for n in range(many):
        hooks.ingress(hooks.first(protocol, client(hooks.family, 1, 40_000 + n), to))
    return {each.backend for each in hooks.table.records()}


@pytest.mark.parametrize("kind", EXTERNAL)
def test_every_kind_of_frontend_leads_to_a_backend(
    hooks: Hooks, protocol: Protocol, kind: Kind
) -> None:
    """Requests go there, answers come back in the frontend's name (parity A2)."""
    family = hooks.family
    service(hooks, protocol, kind, HAS | LOCAL)
    c, f, b = client(family), end_of(family, kind), backend(family, HERE)
    assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, b))
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))


def test_node_ports_are_served_on_their_addresses(hooks: Hooks, protocol: Protocol) -> None:
    """Another address, port or protocol is left alone (A2.5, A7.1)."""
    family = hooks.family
    other = TCP if protocol is UDP else UDP
    service(hooks, protocol, Kind.NODE_PORT)
    # a neighbour of the port, so that the range that is looked at is wider than one
    hooks.node.apply(plan(
        family, protocol, 2, [HERE], kind=Kind.NODE_PORT,
        frontends=[End(bytes(family.address_bytes), NODE_PORT + 2)],
    ))  # fmt: skip
    c = client(family)
    for sent, to in (
        (other, End(node_address(family, SERVED), NODE_PORT)),
        (protocol, End(node_address(family, OTHER), NODE_PORT)),
        (protocol, End(node_address(family, ELSEWHERE), NODE_PORT)),
        (protocol, End(node_address(family, SERVED), NODE_PORT + 1)),
        (protocol, End(node_address(family, SERVED), NODE_PORT - 1)),
        (protocol, End(node_address(family, SERVED), NODE_PORT + 3)),
        (protocol, End(bytes(family.address_bytes), NODE_PORT)),
    ):
        packet = hooks.first(sent, c, to)
        assert hooks.ingress(packet) == passed(packet)
    assert hooks.table.entries() == {}


def test_an_address_of_a_service_comes_before_a_node_port(hooks: Hooks, protocol: Protocol) -> None:
    """An externalIP that is the node's, with another service's NodePort as port (A2.6)."""
    family = hooks.family
    service(hooks, protocol, Kind.NODE_PORT)
    to = End(node_address(family, SERVED), NODE_PORT)
    mine = plan(family, protocol, 2, [5], frontends=[to], kind=Kind.EXTERNAL_IP)
    hooks.node.apply(mine)
    assert backends_of(hooks, protocol, to, 8) == {backend(family, 5)}


@pytest.mark.parametrize("kind", [Kind.CLUSTER_IP, *EXTERNAL])
@pytest.mark.parametrize("pod", [True, False])
@pytest.mark.parametrize("policy", [ServiceFlag(flag) for flag in range(4)])
def test_traffic_policies(
    hooks: Hooks, protocol: Protocol, kind: Kind, pod: bool, policy: ServiceFlag
) -> None:
    """Each kind has its own; pods reach all from outside as well (A4.4, A4.5, A9.6, A9.8)."""
    family = hooks.family
    recognise(hooks, pod=pod)
    service(hooks, protocol, kind, HAS | policy)
    internal = kind is Kind.CLUSTER_IP
    is_local = policy & (ServiceFlag.INTERNAL_LOCAL if internal else LOCAL)
    near_only = bool(is_local) and (internal or not pod)
    wanted = {backend(family, HERE)} if near_only else {backend(family, n) for n in (HERE, THERE)}
    assert backends_of(hooks, protocol, end_of(family, kind)) == wanted


@pytest.mark.parametrize("kind", EXTERNAL)
@pytest.mark.parametrize("pod", [True, False])
def test_a_local_policy_without_local_backends(
    hooks: Hooks, protocol: Protocol, kind: Kind, pod: bool
) -> None:
    """Dropped, but for pods, whose way leads to all (A8.3)."""
    family = hooks.family
    recognise(hooks, pod=pod)
    service(hooks, protocol, kind, HAS | LOCAL, local=0)
    packet = hooks.first(protocol, client(family), end_of(family, kind))
    if pod:
        there = hooks.first(protocol, client(family), backend(family, THERE))
        assert hooks.ingress(packet) == passed(there)
    else:
        with hooks.node.counting(family, packet_drop=1):
            assert hooks.ingress(packet) == dropped(packet)


@pytest.mark.parametrize("kind", EXTERNAL)
def test_without_endpoints_clients_hear_so_at_once(
    hooks: Hooks, protocol: Protocol, kind: Kind
) -> None:
    """RST or port unreachable (A8.1)."""
    family = hooks.family
    plain = planned(family, protocol, kind, ServiceFlag(0), local=0)
    hooks.node.apply(plain._replace(backends=(), members=(), cluster_count=0))
    to = end_of(family, kind)
    answered = hooks.ingress(hooks.first(protocol, client(family), to))
    assert answered.verdict == TC_REDIRECT
    ends = (to.port, client(family).port)
    if protocol is TCP:
        assert struct.unpack_from("!HH9xB", answered.data, len(answered.data) - 20) == (
            *ends, RST | ACK,
        )  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
def test_a_node_port_without_endpoints_on_other_addresses_of_the_node(
    hooks: Hooks, protocol: Protocol, mode: Mode
) -> None:
    """Iptables mode refuses on all of the node's, whatever is selected (A7.6)."""
    family = hooks.family
    recognise(hooks, pod=True, mode=mode)
    to = End(node_address(family, OTHER), NODE_PORT)
    packet = hooks.first(protocol, client(family), to)
    plain = planned(family, protocol, Kind.NODE_PORT, ServiceFlag(0), local=0)
    hooks.node.apply(plain._replace(backends=(), members=(), cluster_count=0))
    refused = hooks.ingress(packet)
    service(hooks, protocol, Kind.NODE_PORT, HAS | LOCAL, local=0)
    silent = hooks.ingress(packet)
    if mode is Mode.IPTABLES:
        assert refused.verdict == TC_REDIRECT
        # nor do pods have another way there
        assert silent == dropped(packet)
    else:
        assert (refused, silent) == (passed(packet), passed(packet))


@pytest.mark.parametrize("kind", [Kind.CLUSTER_IP, *EXTERNAL])
@pytest.mark.parametrize("pod", [True, False])
@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("policy", [ServiceFlag(0), LOCAL])
@pytest.mark.parametrize("setting", ["", "masquerade_all", "hide_clients"])
def test_who_is_masqueraded(  # noqa: PLR0917 - a table of five columns
    hooks: Hooks, kind: Kind, pod: bool, near: bool, policy: ServiceFlag, setting: str
) -> None:
    """As kube-proxy does (A9.1-A9.8), but that a backend on this node sees its client."""
    family = hooks.family
    recognise(hooks, pod=pod, **{setting: True} if setting else {})
    service(hooks, TCP, kind, HAS | policy, local=int(near))
    b = backend(family, HERE if near else THERE)
    backends_of(hooks, TCP, end_of(family, kind))
    internal = kind is Kind.CLUSTER_IP
    masqueraded = not policy
    if internal:
        masqueraded = not pod or setting == "masquerade_all"
    wanted = {masqueraded and (not near or bool(setting))}
    if not internal and policy and not near and not pod:
        wanted = set()  # there is none for it
    mine = [each for each in hooks.table.records() if each.backend == b]
    assert {bool(each.flags & Life.SOURCE_WANTED) for each in mine} == wanted


def test_pods_may_be_known_by_their_device(hooks: Hooks) -> None:
    """BridgeInterface and InterfaceNamePrefix (A9.14)."""
    family = hooks.family
    by_device = Options(
        "here", detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, local_interface="cni0"
    )
    hooks.configure(options=by_device)
    service(hooks, TCP, Kind.CLUSTER_IP, local=0)
    for flags, masqueraded in ((0, True), (PODS, False)):
        hooks.table.clear()
        hooks.write_device(node_address(family), flags)
        hooks.ingress(hooks.tcp(client(family), external(family), SYN))
        assert bool(hooks.table.only().flags & Life.SOURCE_WANTED) is masqueraded


def test_a_sockets_own_datagrams_from_a_node_port_are_answered(hooks: Hooks) -> None:
    """It had the port before the service came, or the kernel has masqueraded with it (rule 3)."""
    family = hooks.family
    service(hooks, UDP, Kind.NODE_PORT)
    own, peer = End(node_address(family, SERVED), NODE_PORT), client(family, 9)
    packet = hooks.udp(own, peer)
    with hooks.node.counting(family, packet_pass=1):
        assert hooks.egress(packet) == passed(packet)
    answer = hooks.udp(peer, own)
    assert hooks.ingress(answer) == passed(answer)
    # from an address without NodePorts nothing needs that
    other = hooks.udp(End(node_address(family, ELSEWHERE), NODE_PORT), peer)
    with hooks.node.counting(family):
        assert hooks.egress(other) == passed(other)


def test_a_packet_to_an_external_address_may_leave(hooks: Hooks, protocol: Protocol) -> None:
    """Only a ClusterIP means nothing outside of the node."""
    family = hooks.family
    service(hooks, protocol, Kind.LOAD_BALANCER)
    packet = hooks.first(protocol, client(family), external(family))
    assert hooks.egress(packet) == passed(packet)


def network(family: Family) -> Prefix:
    """Return a network that is the node's as a whole (`ip route add local`)."""
    return Prefix(packed(family, "192.0.2.64", "2001:db8:7::"), 26 if family is Family.IPV4 else 64)


@pytest.mark.parametrize(
    ("four", "six", "served"),
    [
        ("192.0.2.64", "2001:db8:7::", True),
        ("192.0.2.127", "2001:db8:7:0:ffff:ffff:ffff:ffff", True),
        ("192.0.2.128", "2001:db8:7:1::", False),
    ],
    ids=["first", "last", "beside"],
)
def test_all_of_a_network_of_the_node(
    hooks: Hooks, protocol: Protocol, four: str, six: str, *, served: bool
) -> None:
    """As kube-proxy asks the kernel whether an address is local; no longer than it is (A7.1)."""
    family = hooks.family
    service(hooks, protocol, Kind.NODE_PORT)
    packet = hooks.first(protocol, client(family), End(packed(family, four, six), NODE_PORT))
    for wanted in ({network(family): NodeAddressFlag.PORTS}, {}):
        hooks.path.write_networks(wanted)
        hooks.table.clear()
        assert (hooks.ingress(packet) == passed(packet)) != (served and bool(wanted))


def test_a_network_without_node_ports(hooks: Hooks, protocol: Protocol) -> None:
    """By nodePortAddresses: it passes, and where there is no endpoint it is refused (A7.6)."""
    family = hooks.family
    hooks.path.write_networks({network(family): NodeAddressFlag(0)})
    to = End(network(family).address, NODE_PORT)
    packet = hooks.first(protocol, client(family), to)
    service(hooks, protocol, Kind.NODE_PORT)
    assert hooks.ingress(packet) == passed(packet)
    plain = planned(family, protocol, Kind.NODE_PORT, ServiceFlag(0), local=0)
    hooks.node.apply(plain._replace(backends=(), members=(), cluster_count=0))
    assert hooks.ingress(packet).verdict == TC_REDIRECT


def test_answers_to_an_address_of_a_network_pass(hooks: Hooks) -> None:
    """A socket of the node has asked from there, or what masquerades has (rule 3)."""
    family = hooks.family
    service(hooks, UDP, Kind.NODE_PORT)
    hooks.path.write_networks({network(family): NodeAddressFlag.PORTS})
    own, peer = End(network(family).address, NODE_PORT), client(family, 9)
    question, answer = hooks.udp(own, peer), hooks.udp(peer, own)
    assert hooks.egress(question) == passed(question)
    assert hooks.ingress(answer) == passed(answer)


def test_an_address_comes_before_its_network(hooks: Hooks, protocol: Protocol) -> None:
    """One that an interface has may serve no NodePorts, though it is in a network that does."""
    family = hooks.family
    service(hooks, protocol, Kind.NODE_PORT)
    hooks.path.write_networks({Prefix(bytes(family.address_bytes), 0): NodeAddressFlag.PORTS})
    for number, served in ((OTHER, False), (ELSEWHERE, True)):
        to = End(node_address(family, number), NODE_PORT)
        packet = hooks.first(protocol, client(family), to)
        assert (hooks.ingress(packet) == passed(packet)) != served


@pytest.mark.parametrize("number", [1, 2])
def test_nobody_from_outside_comes_by_loopback(
    hooks: Hooks, protocol: Protocol, number: int
) -> None:
    """127.0.0.1, another one of its network, and ::1 are for the node's own sockets (C10)."""
    family = hooks.family
    service(hooks, protocol, Kind.NODE_PORT)
    loopback = packed(family, "127.0.0.1", "::1")
    flags = NodeAddressFlag.PORTS | NodeAddressFlag.NETWORK
    hooks.path.write_addresses({loopback: flags})
    to = packed(family, f"127.0.0.{number}", "::1")
    packet = hooks.first(protocol, client(family), End(to, NODE_PORT))
    with hooks.node.counting(family):
        assert hooks.ingress(packet) == passed(packet)

# SPDX-License-Identifier: Apache-2.0
"""The fast path on real wires: what is taken, and that the stack's word counts within a second.

A client outside of the cluster talks to NodePorts of the first node, whose agent has the fast path:
with a backend of that node, which sees the client, and one of the other node, which does not.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import pytest

from pyproxy.kernel import libbpf
from pyproxy.kernel.programs import TCX_INGRESS
from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, Scene, counters, running
from tests.e2e.talk import IMPATIENT_S, KINDS, NODE_PORTS, PORT, TIMEOUT_S, Talk, talking
from tests.lab import foreign, netns
from tests.lab.agent import Agent
from tests.lab.firewalls import LIBERAL, set_sysctl
from tests.lab.hosts import Node
from tests.lab.manifests import endpoint, endpoint_slice, service, slice_port
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

CONFIG = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
iptables: {syncPeriod: 1s}
"""
# the stack is asked again after 60 ticks of 16.8 ms; the rest is for a machine that is busy
A_SECOND = 3.0
IP_RECVERR, IPV6_RECVERR = 11, 25  # include/uapi/linux/in.h, in6.h
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DO = 10, 23, 2


@pytest.fixture(scope="module")
def quick(make_cluster: MakeCluster, translation: str) -> Iterator[Scene]:
    """A cluster whose first node has the fast path, and services of a pod of each node."""
    with running(make_cluster(nodes=2, pods_per_node=1), translation) as found:
        cluster = found.cluster
        node, agent = cluster.nodes[0], found.agents[0]
        config = cluster.directory / "fast.yaml"
        config.write_text(CONFIG)
        set_sysctl(node, LIBERAL, "1")
        agent.use_fast_path()
        agent.options = (*agent.options, f"--config={config}")
        agent.restart()
        for (where, number), host in zip(NODE_PORTS.items(), cluster.nodes, strict=True):
            app = found.app(where)
            ports = [
                {"name": name.lower(), "port": 80 + n, "protocol": name, "targetPort": PORT,
                 "nodePort": number}
                for n, name in enumerate(KINDS)
            ]  # fmt: skip
            given = [slice_port(PORT, name, name=name.lower()) for name in KINDS]
            slices = [
                endpoint_slice(app.name, family, [endpoint(host.pods[0], family)], given)
                for family in FAMILIES
            ]
            spec = service(app.name, app.addresses, ports, type="NodePort")
            found.put(f"{where}.json", spec, *slices)
        many = len(NODE_PORTS) * len(KINDS) * len(FAMILIES)
        wait_for(lambda: len(agent.services()) == many, 5, "the services")
        yield found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", NODE_PORTS)
def test_both_ways_skip_the_stack(quick: Scene, where: str, kind: str, family: int) -> None:
    """What goes on does so within a few packets; nothing is lost as the stack is asked again."""
    with talking(quick, where, family, kind) as talk:
        agent = quick.agents[0]
        before = counters(agent, family)
        for number in range(3000):
            talk.say(b"%d" % number)
        grown = counters(agent, family) - before
    assert grown["packet_fast"] > 5000
    assert grown["packet_open"] == 0


class Change(NamedTuple):
    """What an operator does to the node by a command, and what takes it away."""

    done: str
    undone: str


@contextmanager
def changed(node: Node, change: Change) -> Iterator[None]:
    """Have a node as an operator changes it, for a block."""
    node.run("sh", "-c", change.done, check=True)
    try:
        yield
    finally:
        node.run("sh", "-c", change.undone, check=True)


POLICIES = {
    "forward": Change(
        "nft 'add table inet own; add chain inet own routed { type filter hook forward priority"
        " 0; }; add rule inet own routed meta l4proto udp drop'",
        "nft delete table inet own",
    ),
    "postrouting": Change(
        "nft 'add table inet own; add chain inet own out { type filter hook postrouting priority"
        " 300; }; add rule inet own out meta l4proto udp drop'",
        "nft delete table inet own",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("where", NODE_PORTS)
def test_a_policy_counts_within_a_second(
    quick: Scene, where: str, policy: str, family: int
) -> None:
    """Those that are fast already stop, and go on when it is gone: nothing is around it."""
    with talking(quick, where, family, "UDP") as talk:
        with changed(talk.node, POLICIES[policy]):
            wait_for(lambda: not talk.answers(IMPATIENT_S), A_SECOND, "the policy to count")
            before = counters(talk.agent, family)["packet_fast"]
            assert not any(talk.answers(IMPATIENT_S) for _ in range(3))
            assert counters(talk.agent, family)["packet_fast"] == before
        wait_for(partial(talk.answers, IMPATIENT_S), TIMEOUT_S, "answers again")
        talk.await_fast()


CHAIN = "{ type filter hook ingress device eth0 priority 0; }"
SLOW = {
    "a chain of the device": Change(
        f"nft 'add table netdev own; add chain netdev own early {CHAIN}'",
        "nft delete table netdev own",
    ),
    "a mark": Change(
        "nft 'add table inet own; add chain inet own early { type filter hook prerouting priority"
        " -150; }; add rule inet own early meta mark set 1'",
        "nft delete table inet own",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", SLOW)
def test_what_others_would_miss_goes_by_the_stack(
    quick: Scene, reason: str, kind: str, family: int
) -> None:
    """Nothing that somebody has put there is left out; without it, it is fast again."""
    with talking(quick, "elsewhere", family, kind) as talk:
        with changed(talk.node, SLOW[reason]):
            talk.await_slow()
        talk.await_fast()


def attached_after_ours(node: Node) -> int:
    """Attach somebody's program to the uplink, last of all; return the link's descriptor."""
    program = foreign.passing_on()
    try:
        ifindex = netns.inside(node.netns, lambda: socket.if_nametoindex("eth0"))
        return netns.inside(node.netns, lambda: libbpf.link_create(program, ifindex, TCX_INGRESS))
    finally:
        os.close(program)


def test_somebodys_program_after_ours(quick: Scene) -> None:
    """It sees all packets, and status says why they are slow."""
    with talking(quick, "elsewhere", 4, "UDP") as talk:
        assert notices(talk.agent) == {}
        link = attached_after_ours(talk.node)
        try:
            talk.await_slow()
            assert "eth0" in notices(talk.agent)["fast-path-devices"]
        finally:
            os.close(link)
        talk.await_fast()
        assert notices(talk.agent) == {}


def notices(agent: Agent) -> dict[str, str]:
    """Return what status gives notice of, by its code."""
    return {each["code"]: each["message"] for each in agent.status()["notices"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_conntrack_that_is_strict(quick: Scene, family: int) -> None:
    """Then TCP goes by the stack, UDP does not, and status says how to have both."""
    node = quick.cluster.nodes[0]
    with talking(quick, "here", family, "TCP") as tcp:
        set_sysctl(node, LIBERAL, "0")
        try:
            tcp.await_slow()
            assert "UDP only" in notices(tcp.agent)["fast-path-tcp"]
            with talking(quick, "elsewhere", family, "UDP"):
                pass
        finally:
            set_sysctl(node, LIBERAL, "1")
        tcp.await_fast()


@pytest.mark.parametrize("running", [True, False], ids=["agent", "no agent"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_that_changes(quick: Scene, family: int, running: bool) -> None:
    """Packets follow it, within a second also where no agent hears of it."""
    with talking(quick, "elsewhere", family, "UDP") as talk:
        ip, to = ("ip", f"-{family}", "route"), talk.pod.address(family)
        if not running:
            talk.agent.stop()
        try:
            talk.node.run(*ip, "add", "unreachable", to, check=True)
            wait_for(lambda: not talk.answers(IMPATIENT_S), A_SECOND, "the route to count")
            talk.node.run(*ip, "del", "unreachable", to, check=True)
            wait_for(partial(talk.answers, IMPATIENT_S), TIMEOUT_S, "answers again")
        finally:
            with suppress(OSError):
                talk.node.run(*ip, "del", "unreachable", to)
            if not running:
                talk.agent.start()
        talk.await_fast()


def refused(talk: Talk, size: int) -> int:
    """Send a datagram that is not to be cut; return what the client is told of it, 0 if nothing."""
    try:
        talk.client.send(bytes(size))
        talk.client.settimeout(IMPATIENT_S)
        talk.client.recv(65_536)
    except TimeoutError:
        return 0
    except OSError as error:
        return error.errno or 0
    finally:
        talk.client.settimeout(TIMEOUT_S)
    return 0


def asked_of(talk: Talk, option: Callable[[int], tuple[int, int, int]]) -> None:
    """Set an option of the client's socket, as it is for the family."""
    talk.client.setsockopt(*option(talk.family))


def errors(family: int) -> tuple[int, int, int]:
    """Tell of ICMP errors."""
    if family == 4:
        return socket.IPPROTO_IP, IP_RECVERR, 1
    return socket.IPPROTO_IPV6, IPV6_RECVERR, 1


def whole(family: int) -> tuple[int, int, int]:
    """Let no router cut datagrams."""
    if family == 4:
        return socket.IPPROTO_IP, IP_MTU_DISCOVER, DO
    return socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, DO


def one_hop(family: int) -> tuple[int, int, int]:
    """Let datagrams go no further than the node."""
    if family == 4:
        return socket.IPPROTO_IP, socket.IP_TTL, 1
    return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_with_a_smaller_mtu(quick: Scene, family: int) -> None:
    """Who sends too much is told so, as by the stack."""
    with talking(quick, "elsewhere", family, "UDP") as talk:
        ip, to = ("ip", f"-{family}", "route"), talk.pod.address(family)
        by = ("via", quick.cluster.nodes[1].address(family))
        talk.node.run(*ip, "add", to, *by, "mtu", "1300", check=True)
        try:
            talk.await_fast()
            for option in (errors, whole):
                asked_of(talk, option)
            talk.say(bytes(1200))
            wait_for(lambda: refused(talk, 1400) == errno.EMSGSIZE, TIMEOUT_S, "the route's MTU")
            talk.await_fast()
        finally:
            talk.node.run(*ip, "del", to, *by, check=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", NODE_PORTS)
def test_a_hop_is_counted(quick: Scene, where: str, family: int) -> None:
    """A packet that may go no further than the node does not, and its sender is told so."""
    with talking(quick, where, family, "UDP") as talk:
        for option in (errors, one_hop):
            asked_of(talk, option)
        wait_for(lambda: refused(talk, 10) == errno.EHOSTUNREACH, TIMEOUT_S, "time exceeded")


def test_off_by_default(quick: Scene) -> None:
    """The other node has no such setting."""
    agent = quick.agents[1]
    assert all(counters(agent, family)["packet_fast"] == 0 for family in FAMILIES)
    assert "fast-path-tcp" not in notices(agent)

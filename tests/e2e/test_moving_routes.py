# SPDX-License-Identifier: Apache-2.0
"""Routes and addresses of a node change while a client talks to a NodePort by it.

The backend is on the other node, so that the client is hidden behind an address of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene, dangling, running
from tests.e2e.sequences import NODE_PORTS, node_port, with_node_ports
from tests.lab.hosts import Node
from tests.lab.prober import Outcome, Target, tcp, udp
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

LAG_S = 5.0
# a second subnet of the lan, and its prefix length
OTHERS = {4: ("10.7.0.1", "10.7.0.2", 24), 6: ("fd00:7::1", "fd00:7::2", 64)}
THIRD = {4: "10.0.0.77", 6: "fd00:10::77"}
PODS = {4: "10.244.2.0/24", 6: "fd00:10:244:2::/64"}


class Routed(NamedTuple):
    """A cluster, and the application that is on its second node."""

    scene: Scene
    app: App


@pytest.fixture(scope="module")
def routed(make_cluster: MakeCluster, translation: str) -> Iterator[Routed]:
    """Two nodes with a pod each."""
    with running(make_cluster(nodes=2, pods_per_node=1), translation) as scene:
        app, pods = scene.app("routed"), scene.cluster.nodes[1].pods
        scene.put("routed.json", with_node_ports(app), *app.slices(pods))
        scene.await_backends(app, pods)
        yield Routed(scene, app)
        for agent in scene.agents:
            assert dangling(agent) == []


class Held:
    """A TCP connection and a connected UDP socket of the client's, by an address of a node."""

    def __init__(self, routed: Routed, family: int, address: str = "") -> None:
        cluster = routed.scene.cluster
        self._prober = cluster.client.prober
        self.who = cluster.nodes[1].pods[0].name
        to = address or cluster.nodes[0].address(family)
        self._to = {
            "tcp": tcp(to, NODE_PORTS["TCP"]),
            "udp": udp(to, NODE_PORTS["UDP"], connected=True, timeout_s=0.5),
        }
        wait_for(lambda: self._prober.once(self._to["tcp"]).who == self.who, LAG_S, "the service")
        for name, target in self._to.items():
            assert self._prober.open(self._named(name), target).error == ""
            self.answered(name)

    def _named(self, name: str) -> str:
        return f"{name} {self._to[name].address}"

    def ask(self, name: str) -> Outcome:
        """Ask by one of the two."""
        return self._prober.ask(self._named(name), self._to[name])[0]

    def seen(self) -> tuple[str, str]:
        """Return the client's ends that the backend sees; both answer."""
        return self.answered("tcp"), self.answered("udp")

    def is_behind(self, address: str) -> bool:
        """Return whether the backend sees this address."""
        return all(end.startswith(f"{address} ") for end in self.seen())

    def answered(self, name: str) -> str:
        """Return which client the backend sees by one of the two."""
        outcome = self.ask(name)
        assert outcome.who == self.who, outcome
        return outcome.seen

    def close(self) -> None:
        """Close both."""
        for name in self._to:
            self._prober.close(self._named(name))


def ip(node: Node, family: int, *words: str) -> None:
    """Run `ip` on a node."""
    node.run("ip", f"-{family}", *words, check=True)


@contextmanager
def second_subnet(routed: Routed, family: int) -> Iterator[None]:
    """Have both nodes be in another subnet as well, for a block."""
    nodes = routed.scene.cluster.nodes
    mine, yours, length = OTHERS[family]
    dad = ("nodad",) if family == 6 else ()
    for node, address in zip(nodes, (mine, yours), strict=True):
        ip(node, family, "address", "add", f"{address}/{length}", "dev", "eth0", *dad)
    try:
        yield
    finally:
        ip(nodes[0], family, "route", "replace", PODS[family], "via", nodes[1].address(family))
        for node, address in zip(nodes, (mine, yours), strict=True):
            with suppress(OSError):
                node.run("ip", "address", "del", f"{address}/{length}", "dev", "eth0")


@pytest.fixture
def subnets(routed: Routed, family: int) -> Iterator[None]:
    """The second subnet."""
    with second_subnet(routed, family):
        yield


@pytest.mark.usefixtures("subnets")
@pytest.mark.parametrize("family", FAMILIES)
def test_another_next_hop_keeps_the_address(routed: Routed, family: int) -> None:
    """A connection goes on by it as its backend knows it; new ones have the new subnet's."""
    one, two = routed.scene.cluster.nodes
    mine, yours, _ = OTHERS[family]
    held = Held(routed, family)
    before = held.seen()
    assert held.is_behind(one.address(family))
    ip(one, family, "route", "replace", PODS[family], "via", yours)
    assert held.seen() == before
    wait_for(lambda: _seen_now(routed, family) == mine, LAG_S, "the other subnet's address")
    ip(one, family, "route", "replace", PODS[family], "via", two.address(family))
    assert held.seen() == before
    held.close()


def _seen_now(routed: Routed, family: int) -> str:
    """Return the address that a backend sees of a new connection."""
    cluster = routed.scene.cluster
    outcome = cluster.client.prober.once(node_port("TCP", cluster.nodes[0], family))
    return outcome.seen.rsplit(" ", 1)[0]


@pytest.mark.usefixtures("subnets")
@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_that_goes_ends_its_connections(routed: Routed, family: int) -> None:
    """The client is told so; its datagrams get another address, as new connections do."""
    one, two = routed.scene.cluster.nodes
    mine, yours, length = OTHERS[family]
    ip(one, family, "route", "replace", PODS[family], "via", yours)
    wait_for(lambda: _seen_now(routed, family) == mine, LAG_S, "the other subnet's address")
    held = Held(routed, family)
    assert held.is_behind(mine)
    ip(one, family, "address", "del", f"{mine}/{length}", "dev", "eth0")
    ip(one, family, "route", "replace", PODS[family], "via", two.address(family))
    wait_for(lambda: held.ask("udp").seen.startswith(f"{one.address(family)} "), LAG_S, "datagrams")
    assert _seen_now(routed, family) == one.address(family)
    assert held.ask("tcp").error in {"ECONNRESET", "EPIPE"}
    held.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_of_the_uplink_comes_and_goes(routed: Routed, family: int) -> None:
    """It serves NodePorts as long as it is there; connections by others do not notice."""
    one = routed.scene.cluster.nodes[0]
    held = Held(routed, family)
    before = held.seen()
    length, dad = ("24", ()) if family == 4 else ("64", ("nodad",))
    where = ("address", "add", f"{THIRD[family]}/{length}", "dev", "eth0", *dad)
    ip(one, family, *where)
    by_it = Held(routed, family, THIRD[family])
    assert held.seen() == before
    by_it.close()
    ip(one, family, "address", "del", f"{THIRD[family]}/{length}", "dev", "eth0")
    to = Target("tcp", THIRD[family], NODE_PORTS["TCP"], family, timeout_s=0.5)
    prober = routed.scene.cluster.client.prober
    wait_for(lambda: prober.once(to).who == "", LAG_S, "nobody to answer")
    assert held.seen() == before
    held.close()

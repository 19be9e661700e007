# SPDX-License-Identifier: Apache-2.0
"""loadBalancerSourceRanges: a process of the node asks from what a route says (parity A10)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.scene import FAMILIES, TCP_PORT, Scene
from tests.lab.manifests import Object
from tests.lab.prober import tcp
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

BALANCED = {4: "10.96.0.242", 6: "fd00:10:96::f2"}
ROUTED = {4: "192.0.2.7", 6: "2001:db8::7"}  # what the node sends from by that route
RANGES = ["192.0.2.7/32", "2001:db8::7/128"]


@pytest.fixture(scope="module", autouse=True)
def balanced(scene: Scene) -> Iterator[None]:
    """A service that only one address may ask, which the first node has on loopback."""
    node = scene.cluster.nodes[0]
    made = scene.app("ranges")
    written = made.service(type="LoadBalancer", loadBalancerSourceRanges=RANGES)
    ingress: Object = {"ingress": [{"ip": address} for address in BALANCED.values()]}
    scene.put(
        "ranges.json",
        {**written, "status": {"loadBalancer": ingress}},
        *made.slices(node.pods[:1]),
    )
    for address in ROUTED.values():
        assert not node.run("ip", "address", "add", address, "dev", "lo").returncode
    yield
    for address in ROUTED.values():
        node.run("ip", "address", "del", address, "dev", "lo")
    scene.drop("ranges.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_says_what_a_process_of_the_node_asks_from(scene: Scene, family: int) -> None:
    """An unbound socket is let in while a route gives it the address that may ask."""
    node, client = scene.cluster.nodes[0], scene.cluster.client
    to = tcp(BALANCED[family], TCP_PORT, timeout_s=0.3)
    route = (to.address, "via", client.address(family))

    def settles(who: str, error: str) -> None:
        wait_for(
            lambda: (one := node.prober.once(to)).who == who and one.error == error,
            scene.patience_s,
            f"{to} to give {who or error}",
        )

    settles("", "TIMEOUT")
    assert not node.run("ip", "route", "add", *route, "src", ROUTED[family]).returncode
    settles(node.pods[0].name, "")
    assert not node.run("ip", "route", "del", *route).returncode
    settles("", "TIMEOUT")

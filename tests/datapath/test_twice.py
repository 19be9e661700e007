# SPDX-License-Identifier: Apache-2.0
"""A packet that comes in by two covered devices, one upon the other, is translated once.

A bridge has the address of one of its ports by default, so that what is for the node is for that
port, too; a bond and its devices share one address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel.devices import devices
from pyproxy.model import Family
from tests.datapath.covering import Covering, covering
from tests.datapath.node import Node, run_ip
from tests.datapath.services import service
from tests.datapath.talking import Talking
from tests.datapath.wire import DEVICE, NEAR, SERVICE_AT, Wire

BRIDGE = "bridge"


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

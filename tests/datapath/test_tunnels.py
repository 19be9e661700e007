# SPDX-License-Identifier: Apache-2.0
"""Devices without a link layer, which lead to another host: which of them are ways out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import TUNNEL
from pyproxy.model import Family
from tests.datapath.node import run_ip
from tests.datapath.test_addresses import IPV4, NETS, facts, packed, uplinks
from tests.datapath.tunnel import TUN, tunnel
from tests.lab import netns

LOOPBACK = {Family.IPV4: "10.9.0.1", Family.IPV6: "fd09::1"}
OWN = {Family.IPV4: "10.6.0.1", Family.IPV6: "fd06::1"}
EVERYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


@pytest.fixture
def namespace(tmp_path: Path, family: Family) -> Iterator[Path]:
    """A namespace with an address on loopback, and a tunnel that has one, too."""
    path = tmp_path / "bare"
    netns.create(path, {})
    dad = "" if family is IPV4 else " nodad"
    bits = 8 * family.address_bytes
    with ExitStack() as undo:
        undo.callback(path.unlink)
        undo.callback(netns.unmount, path)
        run_ip(path, "link set lo up", f"addr add {LOOPBACK[family]}/{bits} dev lo{dad}")
        undo.enter_context(tunnel(path, f"addr add {OWN[family]}/{bits} dev {TUN}{dad}"))
        yield path


def test_any_route_by_a_tunnel_makes_an_uplink(namespace: Path, family: Family) -> None:
    """There are no neighbours that a gateway could be; the node is not called by its address."""
    run_ip(namespace, f"route add {NETS[family][2]} dev {TUN}")
    found = facts(namespace, family)
    assert uplinks(found) == {TUN}
    assert found[TUN].source == packed(OWN[family])
    assert found["node"].source == packed(LOOPBACK[family])
    assert not found[TUN].flags & TUNNEL


def test_a_tunnel_that_leads_everywhere(namespace: Path, family: Family) -> None:
    """Answers go back by it without a gateway, and the node is called by its address."""
    run_ip(namespace, f"route add {EVERYWHERE[family]} dev {TUN}")
    found = facts(namespace, family)
    assert uplinks(found) == {TUN}
    assert found[TUN].flags & TUNNEL
    assert found["node"].source == packed(OWN[family])

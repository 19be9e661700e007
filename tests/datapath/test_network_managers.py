# SPDX-License-Identifier: Apache-2.0
"""systemd-networkd manages a link that has our programs: it touches neither them nor traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering
from tests.datapath.flavours import PROTOCOLS, SERVICE_PORT
from tests.datapath.networkd import Networkd
from tests.datapath.node import run_ip
from tests.datapath.services import service
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, SERVICE_AT, talk
from tests.lab import netns


class Kept:
    """A connection of a client on the far side to a service that answers on the near one."""

    def __init__(self, covered: Covering, family: Family, undo: ExitStack) -> None:
        wire, flavour = covered.wire, FLAVOURS[family]
        covered.node.apply(service(family, 3, [2]))
        listener = undo.enter_context(wire.socket(NEAR, family, Protocol.TCP))
        listener.bind(flavour.backend(2))
        listener.listen()
        self._client = undo.enter_context(wire.socket(FAR, family, Protocol.TCP))
        self._client.connect(flavour.service(3, SERVICE_PORT))
        self._served = undo.enter_context(listener.accept()[0])
        self._served.settimeout(self._client.gettimeout())

    def answers(self) -> None:
        """Ask, and be answered."""
        for one, two in ((self._client, self._served), (self._served, self._client)):
            one.sendall(b"who?")
            assert two.recv(64) == b"who?"


def announce_its_own() -> None:
    """Ask for neighbours from the address on the wire: the backends' are on its far side, too."""
    Path(f"/proc/sys/net/ipv4/conf/{DEVICE}/arp_announce").write_text("2", encoding="ascii")


@pytest.fixture
def managed(covered: Covering, tmp_path: Path) -> Iterator[Networkd]:
    """Networkd gives the near device, which is covered, its addresses."""
    near = covered.wire.paths[NEAR]
    run_ip(near, f"addr flush dev {DEVICE}")
    netns.inside(near, announce_its_own)
    for family, protocol in product(Family, PROTOCOLS):
        covered.node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=protocol))
    folder = tmp_path / "network"
    folder.mkdir()
    made = Networkd(covered.wire, folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_networkd_leaves_programs_and_traffic_alone(covered: Covering, managed: Networkd) -> None:
    """As it reloads, configures a link anew, starts again, and makes or forgets a clsact itself."""
    with ExitStack() as undo:
        kept = [Kept(covered, family, undo) for family in Family]
        before = covered.attached

        def nothing_has_changed() -> None:
            assert covered.attached == before
            for family, protocol in product(Family, PROTOCOLS):
                talk(covered.wire, family, protocol)
            for each in kept:
                each.answers()

        nothing_has_changed()
        managed.control("reload")
        nothing_has_changed()
        with managed.configuring():
            managed.control("reconfigure", DEVICE)
        nothing_has_changed()
        managed.stop()
        managed.start()
        nothing_has_changed()
        for more in ("[QDisc]\nParent=clsact\n", ""):
            managed.write(more)
            with managed.configuring():
                managed.control("reload")
            nothing_has_changed()

# SPDX-License-Identifier: Apache-2.0
"""The packet path on devices of the near namespace, and other people's programs beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.devices import Device, devices
from pyproxy.kernel.entries import Entries, device_pins
from pyproxy.kernel.programs import TCX_INGRESS
from pyproxy.model import Family
from tests.datapath.foreign import Counting
from tests.datapath.node import Node
from tests.datapath.wire import DEVICE, Wire

# Debian 12's kernel has no tcx: clsact is what counts there
CLSACT_ON_OLD_KERNELS = pytest.mark.parametrize(
    "tcx", ["tcx", pytest.param("clsact", marks=pytest.mark.kernel)], indirect=True
)


class Attached(NamedTuple):
    """What is on the near device: ids of our links, and all filters as preference and name."""

    links: list[int]
    ingress: list[tuple[int, str]]
    egress: list[tuple[int, str]]


class Covering:
    """The packet path, attached in the near namespace as the agent does it."""

    def __init__(self, node: Node, wire: Wire, run_dir: Path, *, tcx: bool) -> None:
        self.node, self.wire, self.tcx = node, wire, tcx
        self._entries = node.entries(run_dir, tcx=tcx)

    def attach(self, wanted: list[Device]) -> dict[Device, str]:
        """Attach to devices; return what failed and why."""
        return self.wire.inside(lambda: self._entries.attach(wanted).failures)

    def forget(self, present: list[Device]) -> None:
        """Unpin what is for other devices than these."""
        self._entries.forget({device.ifindex for device in present})

    def detach(self, present: list[Device]) -> None:
        """Take everything off: filters off these devices, links off all."""
        self.wire.inside(lambda: self._entries.detach(present))

    @property
    def entries(self) -> Entries:
        """What attaches it."""
        return self._entries

    @property
    def pins(self) -> list[Path]:
        """The pinned links."""
        return device_pins(self.node.loaded[Family.IPV4].pins)

    @property
    def attached(self) -> Attached:
        """What is on the near device now."""
        ids = [found.id for pin in self.pins if (found := links.read(pin))]
        if "clsact" not in self.wire.qdiscs():
            return Attached(ids, [], [])
        return Attached(ids, self.wire.filters(), self.wire.filters("egress"))


@contextmanager
def covering(node: Node, wire: Wire, run_dir: Path, *, tcx: bool) -> Iterator[Covering]:
    """Attach the packet path to the near device; nothing of it is left afterwards."""
    made = Covering(node, wire, run_dir, tcx=tcx)
    try:
        assert made.attach([wire.device]) == {}
        yield made
    finally:
        made.detach(wire.inside(devices))


@contextmanager
def foreign(
    node: Node, name: str, verdict: int = -1, *, indexed: bool = False
) -> Iterator[Counting]:
    """Give somebody else's counting program, pinned."""
    made = Counting(node.bpffs / name, verdict, indexed=indexed)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def linked(
    wire: Wire, program: Counting, *, first: bool = False, attach_type: int = TCX_INGRESS
) -> Iterator[None]:
    """Have somebody's program on a side of the near device by tcx, last or first of all."""
    ifindex = wire.device.ifindex
    pin = program.pin.with_name(f"{program.pin.name}-link")

    def attach() -> None:
        link = program.link(ifindex, attach_type, first=first)
        libbpf.obj_pin(link, str(pin))
        os.close(link)

    wire.inside(attach)
    try:
        yield
    finally:
        pin.unlink()


def add_filter(wire: Wire, program: Counting, preference: int, side: str = "ingress") -> None:
    """Attach a program to a side of the near device by tc; the qdisc must be there."""
    where = ("filter", "add", "dev", DEVICE, side, "pref", str(preference))
    wire.tc(*where, "bpf", "da", "object-pinned", program.pin)

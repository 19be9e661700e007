# SPDX-License-Identifier: Apache-2.0
"""Attaching the packet path to devices: by tcx links where the kernel has them, else by clsact.

One program a device and side serves both families: the IPv4 object's hands IPv6 packets over
to the IPv6 object's by a tail call, which is cheaper than a second program for every packet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf, links, netlink
from pyproxy.kernel.clsact import EGRESS, INGRESS, PREFERENCE, Clsact, Filter
from pyproxy.kernel.devices import Device
from pyproxy.kernel.load import fill_array
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.programs import ENTRIES, OTHER_FAMILY_ARRAY, TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family

# replies are understood before requests are changed (datapath rule 23)
SIDES = (("egress", TCX_EGRESS, EGRESS), ("ingress", TCX_INGRESS, INGRESS))


def entry_of(device: Device, side: str) -> str:
    """Return the name of the program that fits a device's side: "ingress" or "egress"."""
    return side if device.has_link_layer else f"{side}_l3"


def join(programs: Mapping[Family, Path]) -> int:
    """Let the IPv4 programs hand packets over to the IPv6 ones; return how many did not."""
    six = programs.get(Family.IPV6)
    if six is None:
        return 0
    array = programs[Family.IPV4] / OTHER_FAMILY_ARRAY
    return fill_array(array, [six / entry.name for entry in ENTRIES])


class Attached(NamedTuple):
    """What attaching came to: which devices failed and why, and on which anything was changed."""

    failures: dict[Device, str]
    changed: set[Device]


class Entries:
    """The packet path on the devices of this network namespace.

    `programs` are the directories of the families' pinned programs.
    """

    def __init__(
        self, root: Path, programs: dict[Family, Path], run_dir: Path, *, tcx: bool
    ) -> None:
        self._pins = Pins(root, Family.IPV4)
        self._programs = programs
        self._clsact = None if tcx else Clsact(run_dir)

    def join(self) -> None:
        """Let the IPv4 programs hand packets over to the IPv6 ones."""
        join(self._programs)

    def attach(self, devices: Sequence[Device]) -> Attached:
        """Attach to devices; return what failed and what had to be changed.

        Programs that are attached are replaced on one side of all devices before the other.
        Devices that have none are covered one after the other: each takes two RCU grace periods.
        A device can vanish at any time, so a failure concerns that device alone.
        """
        attached = self._attached(devices)
        old = [device for device in devices if device.ifindex in attached]
        new = [device for device in devices if device.ifindex not in attached]
        turns = [(device, side) for side in SIDES for device in old]
        turns += [(device, side) for device in new for side in SIDES]
        done = Attached({}, set())
        for device, side in turns:
            # half covered, a device would have its requests translated and not their answers
            if device not in done.failures:
                try:
                    if self._attach(device, *side):
                        done.changed.add(device)
                except KernelError as error:
                    done.failures[device] = str(error)
        return done

    def _attach(self, device: Device, side: str, attach_type: int, parent: int) -> bool:
        program = self._programs[Family.IPV4] / entry_of(device, side)
        if self._clsact:
            return self._clsact.ensure(Filter(device.ifindex, parent), program)
        pin = self._pin(device, side)
        return links.ensure(pin, program, device.ifindex, device.ifindex, attach_type, first=True)

    def _pin(self, device: Device, side: str) -> Path:
        return self._pins.devices / f"{device.ifindex}-{side}"

    def _attached(self, devices: Iterable[Device]) -> set[int]:
        """Return the devices that have programs of ours, whichever."""
        if self._clsact is None:
            return {device_of(pin) for pin in device_pins(self._pins)}
        found = set()
        for device in devices:
            with contextlib.suppress(KernelError):  # it has vanished
                if self._clsact.tag(Filter(device.ifindex, INGRESS)) is not None:
                    found.add(device.ifindex)
        return found

    def is_last(self, device: Device) -> bool:
        """Return whether nobody's program or filter comes after ours at a device's ingress."""
        if self._clsact:
            return max(_filters(device, INGRESS), default=0) == PREFERENCE
        running = libbpf.device_programs(device.ifindex, TCX_INGRESS)
        return self._is_ours(device, "ingress", running[-1:]) and not _filters(device, INGRESS)

    def is_alone(self, device: Device) -> bool:
        """Return whether there is no program or filter but ours at a device's egress."""
        if self._clsact:
            return _filters(device, EGRESS) == {PREFERENCE}
        running = libbpf.device_programs(device.ifindex, TCX_EGRESS)
        return self._is_ours(device, "egress", running) and not _filters(device, EGRESS)

    def _is_ours(self, device: Device, side: str, running: Sequence[int]) -> bool:
        ours = links.read(self._pin(device, side))
        return ours is not None and list(running) == [ours.program_id]

    def forget(self, wanted: set[int], others: Iterable[Device] = ()) -> None:
        """Unpin the links of devices that are gone, or that are to be covered no longer.

        `others` are those of the latter that there are: filters end with nothing else.
        """
        for pin in device_pins(self._pins):
            if device_of(pin) not in wanted:
                pin.unlink()
        self._remove_filters(others)

    def detach(self, devices: Iterable[Device]) -> None:
        """Take everything off: links wherever they are, filters from these devices."""
        for pin in device_pins(self._pins):
            pin.unlink()
        self._remove_filters(devices)

    def _remove_filters(self, devices: Iterable[Device]) -> None:
        if self._clsact is None:
            return
        for device in devices:
            for _, _, parent in SIDES:
                with contextlib.suppress(KernelError):  # it has vanished
                    self._clsact.remove(Filter(device.ifindex, parent))


def _filters(device: Device, parent: int) -> set[int]:
    try:
        return netlink.filters(device.ifindex, parent)
    except OSError as error:
        raise KernelError(f"{device.name}: filters: {error.strerror}") from error


def device_pins(pins: Pins) -> list[Path]:
    """Return the pinned links of devices."""
    return sorted(pins.devices.iterdir()) if pins.devices.is_dir() else []


def device_of(pin: Path) -> int:
    """Return the ifindex of the device that a pinned link is for."""
    return int(pin.name.partition("-")[0])

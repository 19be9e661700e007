# SPDX-License-Identifier: Apache-2.0
"""Attaching the guard to every device: by tcx links where the kernel has them, else by clsact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pyproxy.errors import KernelError
from pyproxy.kernel import links
from pyproxy.kernel.clsact import EGRESS, INGRESS, Clsact, Filter
from pyproxy.kernel.devices import Device
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS

_SIDES = (("in", TCX_INGRESS, INGRESS), ("out", TCX_EGRESS, EGRESS))
PREFIX = "guard-"


def guard_of(device: Device) -> str:
    """Return the name of the guard program that fits a device."""
    return "guard" if device.has_link_layer else "guard_l3"


class Guards:
    """The guards of one family on the devices of this network namespace."""

    def __init__(self, pins: Pins, run_dir: Path, *, tcx: bool) -> None:
        self._pins = pins
        self._clsact = None if tcx else Clsact(run_dir)

    def attach(self, digest: str, devices: Iterable[Device]) -> list[str]:
        """Attach to every device and forget devices that are gone; return what failed.

        A device can vanish at any time, so a failure concerns that device alone.
        """
        wanted = list(devices)
        failures = []
        for device in wanted:
            try:
                self._attach(self._pins.programs(digest), device)
            except KernelError as error:
                failures.append(f"{device.name}: {error}")
        self._forget({device.ifindex for device in wanted})
        return failures

    def _attach(self, programs: Path, device: Device) -> None:
        program = programs / guard_of(device)
        for side, attach_type, parent in _SIDES:
            if self._clsact:
                family = self._pins.family.value
                self._clsact.ensure(Filter(device.ifindex, parent, family), program)
            else:
                pin = self._pins.links / f"{PREFIX}{device.ifindex}-{side}"
                links.ensure(pin, program, device.ifindex, device.ifindex, attach_type)

    def _forget(self, indexes: set[int]) -> None:
        for pin in guard_pins(self._pins):
            if device_of(pin) not in indexes:
                pin.unlink()

    def exist(self) -> bool:
        """Return whether links of guards are pinned; of filters nothing is known without a dump."""
        return bool(guard_pins(self._pins))

    def detach(self, devices: Iterable[Device]) -> None:
        """Take all guards off: links wherever they are, filters from these devices."""
        for pin in guard_pins(self._pins):
            pin.unlink()
        if self._clsact is None:
            return
        for device in devices:
            for _, _, parent in _SIDES:
                family = self._pins.family.value
                self._clsact.remove(Filter(device.ifindex, parent, family))


def guard_pins(pins: Pins) -> list[Path]:
    """Return the pinned links of guards."""
    if not pins.links.is_dir():
        return []
    return sorted(p for p in pins.links.iterdir() if p.name.startswith(PREFIX))


def device_of(pin: Path) -> int:
    """Return the ifindex of the device that a guard's pinned link is for."""
    return int(pin.name.removeprefix(PREFIX).split("-")[0])

# SPDX-License-Identifier: Apache-2.0
"""In which order devices get which programs; the kernel's part is in tests/datapath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pyproxy.errors import KernelError
from pyproxy.kernel import entries
from pyproxy.kernel.clsact import Filter
from pyproxy.kernel.devices import Device
from pyproxy.kernel.entries import Entries, entry_of
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.programs import ENTRIES, OTHER_FAMILY_ARRAY
from pyproxy.model import Family

ETH, POD, TUN = Device(2, "eth0", True), Device(7, "veth7", True), Device(9, "tun0", False)


class Links:
    """Stands for the kernel's links: what was attached, in order; `gone` devices fail."""

    def __init__(self, gone: frozenset[int] = frozenset()) -> None:
        self.made: list[tuple[str, int, int]] = []
        self.gone = gone
        self.firsts: set[bool] = set()

    def ensure(self, pin: Path, program: Path, *target: int, first: bool = False) -> bool:
        """Note what is attached where."""
        ifindex, target_id, attach_type = target
        assert ifindex == target_id
        if ifindex in self.gone:
            raise KernelError("No such device")
        self.made.append((program.name, ifindex, attach_type))
        self.firsts.add(first)
        assert pin.name == f"{ifindex}-{program.name.partition('_')[0]}"
        return True


def attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: Links, devices: Sequence[Device]
) -> dict[Device, str]:
    """Attach to devices by tcx, over links that stand for the kernel's; return failures."""
    monkeypatch.setattr("pyproxy.kernel.links.ensure", links.ensure)
    programs = {Family.IPV4: tmp_path / "four", Family.IPV6: tmp_path / "six"}
    return Entries(tmp_path, programs, tmp_path, tcx=True).attach(devices).failures


@pytest.mark.parametrize(
    ("device", "side", "program"),
    [
        (ETH, "ingress", "ingress"),
        (ETH, "egress", "egress"),
        (TUN, "ingress", "ingress_l3"),
        (TUN, "egress", "egress_l3"),
    ],
)
def test_each_device_gets_the_program_that_fits(device: Device, side: str, program: str) -> None:
    """Without a link layer the IP header comes first."""
    assert entry_of(device, side) == program
    assert program in {each.name for each in ENTRIES}


def test_rule_23_replies_are_understood_before_requests_are_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs are replaced at all egresses before any ingress; a new device gets egress first."""
    directory = Pins(tmp_path, Family.IPV4).devices
    directory.mkdir(parents=True)
    for index in (ETH.ifindex, TUN.ifindex):
        for side in ("egress", "ingress"):
            (directory / f"{index}-{side}").touch()
    links = Links()
    assert attached(tmp_path, monkeypatch, links, [ETH, POD, TUN]) == {}
    assert links.made == [
        ("egress", 2, 47), ("egress_l3", 9, 47), ("ingress", 2, 46), ("ingress_l3", 9, 46),
        ("egress", 7, 47), ("ingress", 7, 46),
    ]  # fmt: skip
    assert links.firsts == {True}


class Filters:
    """Stands for clsact: which devices have filters of ours, and what is done, in order."""

    def __init__(self, *there: Device) -> None:
        self.there = {device.ifindex for device in there}
        self.done: list[tuple[str, int]] = []

    def tag(self, wanted: Filter) -> str | None:
        """Return the tag of a filter that is there."""
        if wanted.ifindex == TUN.ifindex:
            raise KernelError("No such device")
        return "tag" if wanted.ifindex in self.there else None

    def ensure(self, wanted: Filter, program: Path) -> bool:
        """Note which program goes where."""
        self.done.append((program.name, wanted.ifindex))
        return True

    def remove(self, wanted: Filter) -> None:
        """Note what goes."""
        self.done.append(("removed", wanted.ifindex))


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> Filters:
    """Filters on two devices."""
    found = Filters(ETH, POD)
    monkeypatch.setattr(entries, "Clsact", lambda _: found)
    return found


def test_rule_23_filters_are_replaced_in_the_same_order(tmp_path: Path, filters: Filters) -> None:
    """No pins say which devices have them: the devices do."""
    new = Device(8, "veth8", True)
    made = Entries(tmp_path, {Family.IPV4: tmp_path}, tmp_path, tcx=False)
    assert made.attach([new, ETH, POD, TUN]) == ({}, {new, ETH, POD, TUN})
    assert filters.done == [
        ("egress", 2), ("egress", 7), ("ingress", 2), ("ingress", 7),
        ("egress", 8), ("ingress", 8), ("egress_l3", 9), ("ingress_l3", 9),
    ]  # fmt: skip


def test_filters_of_devices_that_are_wanted_no_longer_go(tmp_path: Path, filters: Filters) -> None:
    """Links go with their pins, filters with nothing else."""
    made = Entries(tmp_path, {}, tmp_path, tcx=False)
    made.forget({ETH.ifindex}, [POD])
    assert filters.done == [("removed", 7)] * 2


def test_a_device_that_fails_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the reason; the devices after it get both programs."""
    links = Links(gone=frozenset({ETH.ifindex}))
    failures = attached(tmp_path, monkeypatch, links, [ETH, POD])
    assert failures == {ETH: "No such device"}
    assert links.made == [("egress", 7, 47), ("ingress", 7, 46)]


def test_only_links_of_devices_that_are_gone_are_unpinned(tmp_path: Path) -> None:
    """Both sides of a device go together, and a number is not taken for its prefix."""
    directory = Pins(tmp_path, Family.IPV4).devices
    directory.mkdir(parents=True)
    for name in ("2-egress", "2-ingress", "27-egress", "27-ingress"):
        (directory / name).touch()
    made = Entries(tmp_path, {}, tmp_path, tcx=True)
    made.forget({2})
    assert sorted(pin.name for pin in directory.iterdir()) == ["2-egress", "2-ingress"]
    made.detach([])
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_ipv6_programs_join_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_ipv6: bool
) -> None:
    """The IPv4 object's array gets the IPv6 object's entries in order; without IPv6, nothing."""
    filled: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(entries, "fill_array", lambda *given: filled.append(given))
    four, six = tmp_path / "four", tmp_path / "six"
    programs = {Family.IPV4: four} | ({Family.IPV6: six} if has_ipv6 else {})
    Entries(tmp_path, programs, tmp_path, tcx=True).join()
    names = ["ingress", "ingress_l3", "egress", "egress_l3"]
    expected = [(four / OTHER_FAMILY_ARRAY, [six / name for name in names])]
    assert filled == (expected if has_ipv6 else [])

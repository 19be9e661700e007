# SPDX-License-Identifier: Apache-2.0
"""What is in the kernel of one bpffs root, read from the pins alone: no agent is needed."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import KernelError, NothingLoadedError
from pyproxy.kernel import libbpf, links
from pyproxy.kernel.addresses import FAST, NodeAddressFlag
from pyproxy.kernel.cgroup import cgroup_id
from pyproxy.kernel.clsact import Clsact, Filter
from pyproxy.kernel.connections import Connections
from pyproxy.kernel.cpus import possible_cpus
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.devices import devices
from pyproxy.kernel.entries import SIDES, device_of, device_pins
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.listeners import listening
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.packetpath import FAST_PATH, FORWARD_MARK, SETTINGS, now_ticks, ticks
from pyproxy.kernel.pins import AHEAD, CONNECTED, UNFINISHED, Pins
from pyproxy.kernel.ports import local_port_range
from pyproxy.kernel.programs import Program, socket_programs
from pyproxy.model import Address, Family, Protocol
from pyproxy.tables import Kind

# enum counter of bpf/numbers.h, in order
COUNTERS = (
    "connect", "sendmsg", "refused", "bind_refused", "left_to_drop", "stale", "packet_open",
    "packet_in", "packet_out", "packet_refused", "packet_drop", "packet_filtered", "packet_leak",
    "packet_redirect", "packet_error", "packet_fragment", "packet_clash", "packet_pass",
    "packet_source", "packet_apart", "packet_back", "packet_fast", "source_taken",
    "source_exhausted", "table_full", "table_evicted", "insert_failed",
)  # fmt: skip
# enum moment, in order; each has a counter of its name
MOMENTS = ("table_full", "source_exhausted", "insert_failed")


class ProgramStatus(NamedTuple):
    """A program at a hook. `expected` is the tag it should have; id 0 and tag "": none is there."""

    hook: str
    target: str
    id: int
    tag: str
    expected: str
    attached: bool


class MapStatus(NamedTuple):
    """How full a map is."""

    name: str
    used: int
    max: int


def loaded_families(root: Path) -> list[Pins]:
    """Return the families that have pins below a bpffs root; raise if there are none."""
    try:
        found = [pins for family in Family if (pins := Pins(root, family)).exist()]
    except OSError as error:
        raise KernelError(f"{root} cannot be read: {error.strerror}", "run as root") from error
    if not found:
        raise NothingLoadedError(
            f"nothing is loaded below {root}", "start 'pyproxy run', or give its --bpffs-root"
        )
    return found


def programs(pins: Pins, cgroup_root: Path | None) -> Iterator[ProgramStatus]:
    """Give the programs of a family: those that should be attached, and what is."""
    passed = (UNFINISHED, AHEAD)
    directories = [p for p in pins.program_directories() if not p.name.endswith(passed)]
    expected = directories[-1] if directories else pins.base / "programs"
    for program in socket_programs(pins.family):
        yield _socket_program(pins, program, expected, cgroup_root)
    if pins.family is Family.IPV4:
        for pin in device_pins(pins):
            yield _device_program(pin, expected)


def uncovered(pins: Pins, patterns: Iterable[str]) -> list[str]:
    """Return the devices that should have the packet path on both sides and have not, by name.

    Where the kernel has no tcx there are no links to go by, and nothing is said.
    """
    if not libbpf.tcx_exists():
        return []
    covered = Counter(device_of(pin) for pin in device_pins(pins))
    return [each.name for each in devices(patterns) if covered[each.ifindex] < len(SIDES)]


def _socket_program(
    pins: Pins, program: Program, expected: Path, cgroup_root: Path | None
) -> ProgramStatus:
    info = links.read(pins.links / program.name)
    target = str(cgroup_root) if cgroup_root else f"cgroup {info.target if info else '?'}"
    tag = _tag(expected / program.name)
    if info is None or not info.target:
        return ProgramStatus(program.hook, target, 0, "", tag, attached=False)
    right = cgroup_root is None or _is_cgroup(cgroup_root, info.target)
    running = _program_tag(info.program_id)
    return ProgramStatus(program.hook, target, info.program_id, running, tag, attached=right)


def _device_program(pin: Path, expected: Path) -> ProgramStatus:
    info = links.read(pin)
    side = pin.name.partition("-")[2]
    hook, device = f"tcx {side}", _device_name(device_of(pin))
    ethernet, bare = (_tag(expected / name) for name in (side, f"{side}_l3"))
    if info is None or not info.target:
        return ProgramStatus(hook, device, 0, "", ethernet, attached=False)
    running = _program_tag(info.program_id)
    wanted = bare if running == bare else ethernet
    return ProgramStatus(hook, device, info.program_id, running, wanted, attached=True)


def foreign_before(pins: Pins, run_dir: Path) -> list[str]:
    """Return which programs of others run before ours on a device: they may end the chain there.

    Source: datapath rule 1.
    """
    if libbpf.tcx_exists():
        return [text for pin in device_pins(pins) for text in _tcx_before(pin)]
    clsact = Clsact(run_dir)
    return [
        f"{name} on {device.name} {side}"
        for device in devices()
        for side, _, parent in SIDES
        for name in clsact.before(Filter(device.ifindex, parent))
    ]


def _tcx_before(pin: Path) -> list[str]:
    info = links.read(pin)
    if info is None or not info.target:
        return []
    try:
        order = libbpf.device_programs(info.target, info.attach_type)
        names = [_program_name(number) for number in order[: order.index(info.program_id)]]
    except (KernelError, ValueError):  # it has just gone
        return []
    where = f"{_device_name(info.target)} {pin.name.partition('-')[2]}"
    return [f"{name} on {where}" for name in names]


def _program_name(number: int) -> str:
    fd = libbpf.program_fd(number)
    try:
        return f"{libbpf.program_info(fd).name or 'a program'} (id {number})"
    finally:
        os.close(fd)


def _is_cgroup(path: Path, number: int) -> bool:
    return path.is_dir() and cgroup_id(path) == number


def _device_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"device {index} (gone)"


def _tag(pin: Path) -> str:
    try:
        with links.opened(pin) as fd:
            return libbpf.program_info(fd).tag
    except KernelError:
        return ""


def _program_tag(number: int) -> str:
    try:
        fd = libbpf.program_fd(number)
    except KernelError:
        return ""
    try:
        return libbpf.program_info(fd).tag
    finally:
        os.close(fd)


def maps(datapath: KernelDatapath) -> list[MapStatus]:
    """Return how full a family's maps are."""
    prefix = datapath.family.label
    room = datapath.room
    services = len(datapath.names)
    return [
        MapStatus(f"{prefix} frontends", len(datapath.frontends), room.frontends),
        MapStatus(f"{prefix} services", services, room.services - 1),
        MapStatus(f"{prefix} slots", datapath.slots_used(), room.slots),
        MapStatus(f"{prefix} members", len(datapath.members), room.members),
        MapStatus(f"{prefix} node_names", len(datapath.nodes), room.nodes),
        MapStatus(f"{prefix} sources", len(datapath.sources), room.sources),
    ]


def connections(pins: Pins) -> list[MapStatus]:
    """Return how full a family's connection table is, and what leads to its connections."""
    tables = pins.connection_tables()
    if not tables:
        return []
    found = Connections(tables[-1], pins.maps)
    used = MapStatus(f"{pins.family.label} connections", found.used(now_ticks()), found.max)
    found.close()
    return [used]


def node_ports_in_use(pins: Pins, datapath: KernelDatapath) -> list[str]:
    """Return the service ports on whose NodePort a process of this node listens, with that."""
    names, served = datapath.read_names(), served_addresses(pins)
    first, last = local_port_range()
    waiting = {
        (port, int(protocol))
        for protocol in (Protocol.TCP, Protocol.UDP)
        for address, port in listening(protocol, pins.family)
        # a UDP client that asks from such a port waits for answers alone
        if address in served and not (protocol is Protocol.UDP and first <= port <= last)
    }
    return sorted(
        f"{port}/{Protocol(protocol).name} of {names[to.service].name}"
        for (_, port, protocol), to in datapath.read_frontends().items()
        # a server of the service itself may listen there
        if to.kind is Kind.NODE_PORT and not to.bindable
        if to.service in names and (port, protocol) in waiting
    )


def served_addresses(pins: Pins) -> set[Address]:
    """Return the addresses on which NodePorts are served; no address stands for any of them."""
    addresses = HashMap(str(pins.maps / "node_addresses"), ("",), ("",))
    found = {address for (address,), (flags,) in addresses.items() if flags & NodeAddressFlag.PORTS}
    addresses.close()
    return found


def troubles(pins: Pins, within_s: int) -> list[str]:
    """Return which of MOMENTS were in the last so many seconds."""
    moments = ArrayMap(str(pins.maps / "moments"), write=False)
    raw = memoryview(moments.read(0, len(MOMENTS))).cast("Q")
    recent = [
        name
        for name, when in zip(MOMENTS, raw, strict=True)
        if when and (now_ticks() - when) & 0xFFFFFFFF <= ticks(within_s)
    ]
    moments.close()
    return recent


def forward_mark(pins: Pins) -> int:
    """Return what requests bear for netfilter's FORWARD to accept them, 0 for nothing."""
    return _setting(pins, FORWARD_MARK)


def fast_path(pins: Pins) -> FastPath:
    """Return what may skip the stack."""
    return FastPath(_setting(pins, FAST_PATH))


def slow_devices(pins: Pins, patterns: Iterable[str]) -> list[str]:
    """Return the devices, by name, whose packets never skip the stack."""
    facts = HashMap(str(pins.maps / "devices"), ("",), ("flags",))
    fast = {ifindex for (ifindex,), (flags,) in facts.items() if flags & FAST}
    facts.close()
    return [each.name for each in devices(patterns) if each.ifindex not in fast]


def _setting(pins: Pins, name: str) -> int:
    settings = ArrayMap(str(pins.maps / "settings"), write=False)
    found = settings.load(SETTINGS.index(name))
    settings.close()
    return found


def shared_maps(pins: Pins) -> list[MapStatus]:
    """Return how full the maps of both families are."""
    return [counted(pins.shared / name, name) for name in CONNECTED]


def counted(pin: Path, name: str) -> MapStatus:
    """Return how full a pinned map is, under this name."""
    with links.opened(pin) as fd:
        info = libbpf.map_info(fd)
        used = libbpf.map_count(fd, info.key_size, info.value_size)
    return MapStatus(name, used, info.max_entries)


def counters(pins: Pins) -> dict[str, int]:
    """Return the event counters of a family, summed over all CPUs."""
    cpus = possible_cpus()
    with links.opened(pins.maps / "counters") as fd:
        return {name: libbpf.percpu_sum(fd, i, cpus) for i, name in enumerate(COUNTERS)}

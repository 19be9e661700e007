# SPDX-License-Identifier: Apache-2.0
"""How full the maps of an agent are, and how much memory it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel import inspect
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.pins import Pins
from pyproxy.model import Family
from tests.bench.startup import memory_mb
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.hosts import Host

# maps that the programs fill and `pyproxy status` does not count
OTHERS = ("affinity", "fragments", "udp_backends", "udp_services")


class Sample(NamedTuple):
    """Seconds since the start; entries by map, and what each map holds at most; MB by node."""

    at: float
    used: dict[str, int]
    most: dict[str, int]
    rss_mb: dict[str, float]


def sample(agents: list[Agent], at: float) -> Sample:
    """Look at all agents' maps and memory."""
    found = {
        f"{agent.node.name} {each.name}": each for agent in agents for each in _maps(agent.bpffs)
    }
    return Sample(
        round(at, 1),
        {name: each.used for name, each in found.items()},
        {name: each.max for name, each in found.items()},
        {agent.node.name: _rss_mb(agent) for agent in agents},
    )


def generations(agent: Agent, services: set[str]) -> int:
    """Return how often ports of these services have changed: each time they get a new number."""
    total = 0
    for family in Family:
        with closing(KernelDatapath(Pins(agent.bpffs, family), write=False)) as datapath:
            total += sum(
                datapath.generation(number)
                for number, named in datapath.read_names().items()
                if named.name.name in services
            )
    return total


def overflows(host: Host) -> int:
    """Return how many datagrams a host's sockets had no room for (RcvbufErrors, snmp_counter)."""

    def work() -> int:
        tables = Path("/proc/thread-self/net")
        heads, values = (
            line.split() for line in (tables / "snmp").read_text().splitlines() if "Udp:" in line
        )
        ipv6 = dict(line.split() for line in (tables / "snmp6").read_text().splitlines())
        ipv4 = dict(zip(heads, values, strict=True))
        return int(ipv4["RcvbufErrors"]) + int(ipv6["Udp6RcvbufErrors"])

    return netns.inside(host.netns, work)


def _maps(root: Path) -> Iterator[inspect.MapStatus]:
    for family in Family:
        pins = Pins(root, family)
        with closing(KernelDatapath(pins, write=False)) as datapath:
            yield from inspect.maps(datapath)
        yield from inspect.connections(pins)
        pinned = [pins.connection_tables()[-1] / "nat", *(pins.maps / name for name in OTHERS)]
        yield from (inspect.counted(pin, f"{family.label} {pin.name}") for pin in pinned)
    yield from inspect.shared_maps(pins)


def _rss_mb(agent: Agent) -> float:
    return memory_mb(Path(f"/proc/{agent.pid}/status").read_text(encoding="utf-8"))["VmRSS"]

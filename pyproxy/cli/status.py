# SPDX-License-Identifier: Apache-2.0
"""pyproxy status."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyproxy
from pyproxy.agent import report
from pyproxy.agent.problems import Problem
from pyproxy.cli.show import print_json, print_lines, print_table
from pyproxy.errors import KernelError, NothingLoadedError
from pyproxy.kernel import forward, inspect
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.fastpath import TCP_BE_LIBERAL, FastPath
from pyproxy.kernel.inspect import MapStatus, ProgramStatus
from pyproxy.kernel.lock import Waiting, holder, waiting
from pyproxy.kernel.pins import Pins

NEARLY_FULL = 0.8
RECENT_S = 60  # for how long a trouble of the packet path counts as present

# what the packet path counts, as a problem: code, what happened, what to do
TROUBLES = {
    "table_full": (
        "connection-table-full",
        "new connections of the packet path were dropped: its table is full",
        "give connectionTable.maxEntries of --pyproxy-config more room",
    ),
    "source_exhausted": (
        "source-ports-exhausted",
        "packets were dropped: no address or port of this node was free as their source",
        "spread the load over more backends or nodes: each pair has its own ports",
    ),
    "insert_failed": (
        "no-memory",
        "new connections of the packet path were dropped: the kernel had no memory for them",
        "free memory on this node",
    ),
}


_FORWARD_ACCEPT = "set forwardAccept: true in --pyproxy-config; or "


class Notice(NamedTuple):
    """What may be wrong and may be meant so: it makes no node unhealthy.

    `commands` do what `remedy` says, word for word.
    """

    code: str
    message: str
    remedy: str
    commands: tuple[str, ...]


class Status(NamedTuple):
    """Everything that is shown."""

    agent: int | None
    state: report.State | None
    programs: list[ProgramStatus]
    maps: list[MapStatus]
    counters: dict[str, dict[str, int]]
    services: int
    endpoints: int
    problems: list[Problem]
    notices: list[Notice]
    waiting: Waiting | None = None


def collect(bpffs_root: Path, run_dir: Path) -> Status:
    """Read the node's state from the pins and from what the agent left in its run-dir."""
    state, agent = report.read(run_dir), holder(run_dir)
    root = Path(state.cgroup_root) if state else None
    programs: list[ProgramStatus] = []
    maps: list[MapStatus] = []
    counters: dict[str, dict[str, int]] = {}
    services: set[tuple[str, str]] = set()
    troubled: list[Problem] = []
    taken: set[str] = set()
    endpoints = 0
    families = inspect.loaded_families(bpffs_root)
    for pins in families:
        datapath = KernelDatapath(pins, write=False)
        programs += inspect.programs(pins, root)
        maps += inspect.maps(datapath) + inspect.connections(pins)
        counters[pins.family.label] = inspect.counters(pins)
        troubled += [
            _troubled(pins.family.label, name, counters[pins.family.label][name])
            for name in inspect.troubles(pins, RECENT_S)
        ]
        names = [named.name for named in datapath.read_names().values()]
        services |= {(name.namespace, name.name) for name in names}
        endpoints += datapath.slots_used() - len(names)
        taken |= set(inspect.node_ports_in_use(pins, datapath))
        datapath.close()
    problems = _problems(agent, state, programs, maps)
    # a full one is no problem: what does not fit is remembered elsewhere
    maps += inspect.shared_maps(families[0])
    uncovered = inspect.uncovered(families[0], state.devices if state else ())
    problems += [_before(text) for text in inspect.foreign_before(families[0], run_dir)]
    problems += [_taken(text) for text in sorted(taken)]
    problems += troubled + [_uncovered(name) for name in uncovered]
    mark, networks = inspect.forward_mark(families[0]), state.pod_networks if state else ()
    dropping = forward.drops([pins.family for pins in families], mark, networks)
    notices = [*map(_dropping, dropping), *_slow(families[0], state)]
    return Status(
        agent, state, programs, maps, counters, len(services), endpoints, problems, notices
    )


def _troubled(family: str, name: str, times: int) -> Problem:
    code, what, remedy = TROUBLES[name]
    text = f"{family}: {what} (within the last {RECENT_S} s; {times} in all)"
    return Problem(code, text, remedy)


def _dropping(found: forward.Drop) -> Notice:
    return Notice(
        "forward-policy-drop",
        f"netfilter's chain {found.chain} has the policy DROP: requests to services and answers "
        "that this node forwards are lost, unless a rule of others accepts them",
        f"if none does, {_FORWARD_ACCEPT if found.is_iptables else ''}see to it, at each boot, by",
        found.commands,
    )


def _slow(pins: Pins, state: report.State | None) -> Iterator[Notice]:
    """Give what keeps packets off the fast path, where there is one."""
    protocols = inspect.fast_path(pins)
    if not protocols:
        return
    if FastPath.TCP not in protocols:
        yield Notice(
            "fast-path-tcp",
            "fastPath is for UDP only: conntrack takes a TCP connection's packets for invalid "
            "unless it sees all of them",
            "for TCP, too, see to it, at each boot, by",
            (f"sysctl -w net.netfilter.{TCP_BE_LIBERAL.name}=1",),
        )
    slow = inspect.slow_devices(pins, state.devices if state else ())
    if slow:
        yield Notice(
            "fast-path-devices",
            f"what comes by {', '.join(slow)} goes by the stack, in spite of fastPath: others' "
            "programs, filters or chains see it after ours, or it is handed to another device",
            "nothing is wrong; to see what is there:",
            tuple(command for name in slow[:3] for command in _lookers(name)),
        )


def _lookers(device: str) -> tuple[str, ...]:
    return f"bpftool net show dev {device}", f"tc filter show dev {device} ingress"


def _before(text: str) -> Problem:
    return Problem(
        "foreign-program-first",
        f"{text} runs before ours: what it accepts or drops never reaches the packet path",
        "have it return TC_ACT_UNSPEC (TCX_NEXT), or attach it after ours",
    )


def _taken(text: str) -> Problem:
    return Problem(
        "node-port-in-use",
        f"a process of this node listens on NodePort {text}: what comes from outside is the "
        "service's",
        "give one of both another port",
    )


def _uncovered(name: str) -> Problem:
    text = f"{name} is not covered: packets to services that come by it are not translated"
    return Problem("device-not-covered", text, "start the agent; it covers every device")


def _problems(
    agent: int | None,
    state: report.State | None,
    programs: list[ProgramStatus],
    maps: list[MapStatus],
) -> list[Problem]:
    found = list(state.problems) if state else []
    if agent is None:
        found.insert(0, Problem(
            "agent-not-running",
            "no agent runs with this run-dir; what is loaded serves the last known state",
            "start 'pyproxy run', or give its --run-dir",
        ))  # fmt: skip
    elif state is None:
        text = "the agent has left no report: it has just started, or cannot write to its run-dir"
        found.append(Problem("no-report", text, "wait, or look at the agent's log"))
    elif state.pid != agent or not state.synced:
        text = "the agent has not synced yet: its first lists are still incomplete"
        found.append(Problem("not-synced", text, "wait, or look at the agent's log"))
    found += [
        Problem("not-attached", f"{p.hook} on {p.target} is not attached", "restart the agent")
        for p in programs
        if not p.attached
    ]
    found += [
        Problem("foreign-program", f"{p.hook} on {p.target} runs {p.tag}, expected {p.expected}",
                "restart the agent")
        for p in programs
        if p.attached and p.tag != p.expected
    ]  # fmt: skip
    found += [
        Problem("map-nearly-full", f"{m.name} holds {m.used} of {m.max}", "remove what is not used")
        for m in maps
        if m.used >= NEARLY_FULL * m.max
    ]
    return found


def show(bpffs_root: Path, run_dir: Path, *, as_json: bool) -> int:
    """Print the status; return 0 healthy, 1 unhealthy, 3 nothing loaded."""
    try:
        status = collect(bpffs_root, run_dir)._replace(waiting=waiting(run_dir))
    except (KernelError, NothingLoadedError) as error:
        return _unknown(error, holder(run_dir), as_json=as_json)
    if as_json:
        print_json("status", _answer(status))
    else:
        _tables(status)
    return 1 if status.problems else 0


def _unknown(error: KernelError | NothingLoadedError, agent: int | None, *, as_json: bool) -> int:
    code = "nothing-loaded" if isinstance(error, NothingLoadedError) else "unreadable"
    problem = Problem(code, error.message, error.remedy)
    empty = Status(agent, None, [], [], {}, 0, 0, [problem], [])
    if as_json:
        print_json("status", _answer(empty))
    else:
        print_lines([f"unknown: {error}"])
    return 3


def _answer(status: Status) -> dict[str, Any]:
    state = status.state
    return {
        "healthy": not status.problems,
        "problems": [problem._asdict() for problem in status.problems],
        "notices": [notice._asdict() for notice in status.notices],
        "agent": _agent(status),
        "programs": [program._asdict() for program in status.programs],
        "maps": [each._asdict() for each in status.maps],
        "counts": {
            "services": status.services,
            "endpoints": status.endpoints,
            "refused": state.refused if state else 0,
            "malformed": state.malformed if state else 0,
        },
        "waiting": status.waiting and status.waiting._asdict(),
        "lastSync": {"time": _time(state), "seconds": state.last_sync_seconds} if state else None,
        "counters": status.counters,
    }


def _agent(status: Status) -> dict[str, Any] | None:
    if status.agent is None:
        return None
    same = status.state is not None and status.state.pid == status.agent
    version = status.state.version if same and status.state else pyproxy.__version__
    return {"pid": status.agent, "version": version}


def _time(state: report.State) -> str | None:
    if not state.last_sync:
        return None
    return datetime.fromtimestamp(state.last_sync, UTC).isoformat().replace("+00:00", "Z")


def _tables(status: Status) -> None:
    print_lines(_head(status))
    if status.problems:
        rows = [(p.code, p.message, p.remedy) for p in status.problems]
        print_table("Problems", ("code", "what", "what to do"), rows)
    for notice in status.notices:
        # in no table, so that commands can be copied
        commands = [f"  {each}" for each in notice.commands]
        print_lines([f"Notice {notice.code}: {notice.message}; {notice.remedy}", *commands, ""])
    programs = [
        (p.hook, p.target, p.id or "-", p.tag or "-", "yes" if p.attached else "NO")
        for p in status.programs
    ]
    print_table("Programs", ("hook", "target", "id", "tag", "attached"), programs)
    maps = [(m.name, m.used, m.max) for m in status.maps]
    print_table("Maps", ("map", "used", "max"), maps)
    names = list(next(iter(status.counters.values()), {}))
    counted = [(n, *(c[n] for c in status.counters.values())) for n in names]
    print_table("Counters", ("event", *status.counters), counted)


def _head(status: Status) -> list[str]:
    state, health = status.state, "unhealthy" if status.problems else "healthy"
    agent = f"agent {status.agent}" if status.agent else "no agent"
    lines = [f"{health}: {agent}, node {state.node if state else '?'}, {pyproxy.__version__}"]
    counts = f"{status.services} services, {status.endpoints} endpoints"
    if state:
        counts += f", {state.refused} refused, {state.malformed} malformed"
    lines.append(counts)
    if state and state.last_sync:
        ago, ms = time.time() - state.last_sync, state.last_sync_seconds * 1000
        lines.append(f"last sync {ago:.1f} s ago, took {ms:.1f} ms")
    if status.waiting:
        pid, version, lacks = status.waiting
        how = f"lacks {lacks}" if lacks else "has prepared everything"
        lines.append(f"agent {pid}, {version}, waits to take over and {how}")
    return [*lines, ""]

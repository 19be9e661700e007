# SPDX-License-Identifier: Apache-2.0
"""Which BPF objects belong to an agent, and which are on a node: read with bpftool and tc."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.agent import Agent
from tests.lab.hosts import Node

KINDS = ("prog", "map", "link")


class Objects(NamedTuple):
    """Ids of BPF objects by kind."""

    programs: frozenset[int]
    maps: frozenset[int]
    links: frozenset[int]


def bpftool(*arguments: str) -> Any:
    """Return what `bpftool -j` says; None where it fails (no such object, say)."""
    done = subprocess.run(
        ["bpftool", "-j", *arguments], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def pins(agent: Agent) -> list[Path]:
    """Return every pinned object under the agent's root, sorted."""
    return sorted(path for path in agent.bpffs.rglob("*") if path.is_file())


def _from_pins(agent: Agent) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for path in pins(agent):
        for kind in KINDS:
            shown = bpftool(kind, "show", "pinned", str(path))
            # bpftool says something of any pin; only the right kind's answer has its own fields.
            if shown and "id" in shown:
                found[kind].add(shown["id"])
                break
    return found


def _from_descriptors(agent: Agent) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    if not agent.running:
        return found
    for entry in Path("/proc", str(agent.pid), "fdinfo").iterdir():
        for kind, number in re.findall(
            r"^(prog|map|link)_id:\s*(\d+)", entry.read_text(), re.MULTILINE
        ):
            found[kind].add(int(number))
    return found


def _attached(node: Node) -> set[int]:
    """Return the ids of programs on the node's cgroups and devices, foreign ones included."""
    groups = bpftool("cgroup", "tree", str(node.root)) or []
    ids = {program["id"] for group in groups for program in group["programs"]}
    net = node.run("bpftool", "-j", "net", "show")
    return ids | {int(n) for n in re.findall(r'"(?:prog_)?id":(\d+)', net.stdout)}


def owned(agent: Agent) -> Objects:
    """Return the objects that the agent has pinned, holds open, or that these programs use."""
    pinned, opened = _from_pins(agent), _from_descriptors(agent)
    programs = pinned["prog"] | opened["prog"]
    links = pinned["link"] | opened["link"]
    for link in links:
        programs.add(bpftool("link", "show", "id", str(link))["prog_id"])
    maps = pinned["map"] | opened["map"]
    for program in programs:
        maps |= set(bpftool("prog", "show", "id", str(program)).get("map_ids", []))
    return Objects(frozenset(programs), frozenset(maps), frozenset(links))


def alive(objects: Objects) -> Objects:
    """Return those of the objects that the kernel still knows."""
    shown = [{entry["id"] for entry in bpftool(kind, "show") or []} for kind in KINDS]
    return Objects(*(frozenset(ids & known) for ids, known in zip(objects, shown, strict=True)))


def on_node(node: Node, bpffs: Path) -> dict[str, Any]:
    """Return everything attached on a node and pinned in a bpffs folder, to be compared."""
    devices = [d["ifname"] for d in json.loads(node.run("ip", "-j", "link").stdout)]
    return {
        "programs": sorted(_attached(node)),
        "qdiscs": node.run("tc", "qdisc", "show").stdout,
        "filters": {name: _filters(node, name) for name in devices},
        "pins": sorted(str(path) for path in bpffs.rglob("*")),
    }


def _filters(node: Node, device: str) -> list[str]:
    shown = [
        node.run("tc", "filter", "show", "dev", device, side) for side in ("ingress", "egress")
    ]
    return [done.stdout for done in shown]

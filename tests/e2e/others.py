# SPDX-License-Identifier: Apache-2.0
"""Somebody else's programs and filters on all devices of all nodes, before and after ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from pyproxy.kernel.devices import devices
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from tests.datapath.foreign import Counting
from tests.e2e.scene import Scene
from tests.lab import netns
from tests.lab.agent import Agent

ACCEPT = 0  # TC_ACT_OK: no filter comes after it
SIDES = {"ingress": TCX_INGRESS, "egress": TCX_EGRESS}


class Other(NamedTuple):
    """A program that lets everything pass; `where` says on what."""

    where: str
    program: Counting


@contextmanager
def beside(scene: Scene) -> Iterator[list[Other]]:
    """Have programs before and after ours on each node, and filters that accept, on both sides."""
    with ExitStack() as undo:
        yield [each for agent in scene.agents for each in _attached(agent, undo)]


def _attached(agent: Agent, undo: ExitStack) -> Iterator[Other]:
    node = agent.node
    present = netns.inside(node.netns, devices)
    for place in ("before", "after"):
        for side, attach_type in SIDES.items():
            program = Counting(agent.bpffs / f"others-{place}-{side}")
            undo.callback(program.close)
            attach = partial(program.link, attach_type=attach_type, first=place == "before")
            for device in present:
                link = netns.inside(node.netns, partial(attach, device.ifindex))
                undo.callback(os.close, link)
            yield Other(f"{node.name}, {side}, {place} ours", program)
    for device in present:
        node.run("tc", "qdisc", "add", "dev", device.name, "clsact", check=True)
        undo.callback(node.run, "tc", "qdisc", "del", "dev", device.name, "clsact", check=True)
    for side in SIDES:
        program = Counting(agent.bpffs / f"others-filter-{side}", ACCEPT)
        undo.callback(program.close)
        for device in present:
            where = ("tc", "filter", "add", "dev", device.name, side, "pref", "7")
            node.run(*where, "bpf", "da", "object-pinned", program.pin, check=True)
        yield Other(f"{node.name}, {side}, filter", program)

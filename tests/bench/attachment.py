# SPDX-License-Identifier: Apache-2.0
"""The agent's programs, attached and detached between two windows.

"No proxy loaded" has to be just that. A neighbour without an agent does not show it: a program
attached to any cgroup or device turns static branches of the kernel on for all of them
(cgroup_bpf_enabled in include/linux/bpf-cgroup.h, tcx_needed_key in include/net/tcx.h), and
then each connect() takes the socket's lock and walks an empty list. Measured with a program of
two instructions on an unrelated cgroup that cost a UDP connect/request/close 0.6 to 2.8 %, as
much as there is to measure. Starting and cleaning an agent for each window would do, but takes
seconds, in which the machine changes.

So the agent starts, syncs and stops, and traffic goes on without it, as it has to. What its
pinned links attach is then noted and the links are unpinned; the same programs with the same
maps are linked anew and let go of again, on the same node, for the same pods. Nothing differs
between two windows but whether the programs are attached. A turn takes 0.1 to 0.2 s, as each
tcx link waits for an RCU grace period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf
from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.waiting import wait_for

DETACH_TIMEOUT_S = 10.0
TCX = (TCX_INGRESS, TCX_EGRESS)


class Attachment(NamedTuple):
    """A program and where it belongs: `target` is a cgroup's descriptor or an ifindex."""

    name: str
    program_fd: int
    target: int
    attach_type: int


class Switch:
    """Attaches programs in a network namespace and detaches them, in the order of the list."""

    def __init__(self, namespace: Path, attachments: Sequence[Attachment]) -> None:
        self._namespace = namespace
        self._attachments = attachments
        self._links: list[int] = []

    def of_empty(self, program_fd: int) -> Switch:
        """Return a switch that attaches this program of nobody's to the same devices."""
        on_devices = [each for each in self._attachments if each.attach_type in TCX]
        return Switch(
            self._namespace, [each._replace(program_fd=program_fd) for each in on_devices]
        )

    def of_device(self, ifindex: int) -> Switch:
        """Return a switch of what belongs to one device."""
        own = [each for each in self._attachments if each.attach_type in TCX]
        return Switch(self._namespace, [each for each in own if each.target == ifindex])

    def program(self, attach_type: int) -> int:
        """Return the descriptor of the first program that is attached that way."""
        return next(
            each.program_fd for each in self._attachments if each.attach_type == attach_type
        )

    @property
    def names(self) -> list[str]:
        """The names of what is attached when the switch is on."""
        return [attachment.name for attachment in self._attachments]

    @property
    def devices(self) -> set[int]:
        """The indexes of the devices that programs are attached to when the switch is on."""
        return {each.target for each in self._attachments if each.attach_type in TCX}

    def turn(self, on: bool) -> None:
        """Attach all programs or detach them; nothing happens where that is so already."""
        if on and not self._links:
            # Devices are found by their number in the namespace of the caller.
            netns.inside(self._namespace, self._attach)
        elif not on:
            while self._links:
                os.close(self._links.pop())

    def _attach(self) -> None:
        for _, program, target, attach_type in self._attachments:
            self._links.append(libbpf.link_create(program, target, attach_type))


@contextmanager
def switch_of(agent: Agent) -> Iterator[Switch]:
    """Stop a running agent and take over what it attached, for the length of a block.

    The switch is off at first; pinned programs and maps stay. Raises KernelError when the
    agent attached nothing by pinned links (before Linux 6.6 devices have no such links), or
    when something stays attached.
    """
    with ExitStack() as undo:
        cgroup_fd = os.open(agent.node.root, os.O_RDONLY | os.O_DIRECTORY)
        undo.callback(os.close, cgroup_fd)
        agent.stop()
        attachments = []
        for pin in _pinned_links(agent.bpffs):
            attachments.append(_taken(pin, agent.bpffs, cgroup_fd))
            undo.callback(os.close, attachments[-1].program_fd)
        if not attachments:
            raise KernelError(f"no links are pinned below {agent.bpffs}", "benchmarks need tcx")
        switch = Switch(agent.node.netns, attachments)
        undo.callback(switch.turn, False)
        _await_all_detached(switch)
        yield switch


def _pinned_links(pins: Path) -> list[Path]:
    return sorted(path for path in pins.rglob("*") if path.is_file() and _is_link(path))


def _is_link(pin: Path) -> bool:
    fd = libbpf.obj_get(str(pin))
    try:
        return "link_type" in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8")
    finally:
        os.close(fd)


def _taken(pin: Path, pins: Path, cgroup_fd: int) -> Attachment:
    """Unpin a link, which detaches it, and return what it was."""
    fd = libbpf.obj_get(str(pin))
    try:
        link = libbpf.link_info(fd)
        program = libbpf.program_fd(link.program_id)
    finally:
        os.close(fd)
    pin.unlink()
    target = cgroup_fd if link.type == libbpf.LINK_CGROUP else link.target
    return Attachment(str(pin.relative_to(pins)), program, target, link.attach_type)


def _await_all_detached(switch: Switch) -> None:
    # An unpinned link is let go of after an RCU grace period, by a worker, and a program can't
    # be attached to a place a second time: that the switch turns on says that all are gone.
    def turned_on() -> bool:
        with suppress(KernelError):
            switch.turn(True)
            return True
        switch.turn(False)
        return False

    try:
        wait_for(turned_on, DETACH_TIMEOUT_S, "the agent's programs to be detached")
    except TimeoutError as error:
        raise KernelError(str(error), "something else than pinned links attaches them") from error
    switch.turn(False)

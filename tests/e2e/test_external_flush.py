# SPDX-License-Identifier: Apache-2.0
"""What somebody else deletes or changes in the kernel is back within about a syncPeriod."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.kernel.links import opened
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.pins import Pins
from pyproxy.model import Family
from tests.e2e.scene import FAMILIES, App, Scene
from tests.e2e.sequences import client_by, node_port, with_node_ports
from tests.lab.agent import Agent
from tests.lab.prober import Target
from tests.lab.waiting import wait_for

PERIOD_S = 1.0
LATE_S = 3.0  # with what the agent has to do, and a look costs 1 % of a CPU at most
CONFIG = f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
iptables: {{syncPeriod: {PERIOD_S:.0f}s}}
"""


@pytest.fixture(scope="module")
def flushed(own: Scene) -> Iterator[Agent]:
    """The agent of node1, with a short syncPeriod."""
    agent = own.agents[0]
    config = own.cluster.directory / "kube-proxy.yaml"
    config.write_text(CONFIG)
    options, agent.options = agent.options, (*agent.options, f"--config={config}")
    agent.restart()
    yield agent
    agent.options = options
    agent.restart()


@pytest.fixture(scope="module")
def app(own: Scene) -> App:
    """A service with NodePorts and pods on both nodes."""
    made = own.app("flushed")
    own.put(f"{made.name}.json", with_node_ports(made), *made.slices(own.cluster.pods))
    own.await_backends(made, own.cluster.pods)
    return made


class Ways:
    """Every way to a service from a pod of the node; each is a list of one or more targets."""

    def __init__(self, own: Scene, app: App) -> None:
        node = own.cluster.nodes[0]
        self._pods = {pod.name for pod in own.cluster.pods}
        self._clients = [client_by(way, own, node.pods[0]) for way in ("sockets", "packets")]
        self._targets: list[Target] = []
        for family in FAMILIES:
            self._targets += [app.tcp(family, 0.3), app.udp(family, timeout_s=0.3)]
            self._targets.append(node_port("TCP", node, family))

    def broken(self) -> list[tuple[str, Target]]:
        """Return what does not work, and from where."""
        return [
            (client.name, to)
            for client in self._clients
            for to in self._targets
            if client.prober.once(to).who not in self._pods
        ]


@pytest.fixture(scope="module")
def ways(own: Scene, app: App, flushed: Agent) -> Ways:
    """All of them work."""
    made = Ways(own, app)
    wait_for(lambda: not made.broken(), 5, "everything to work")
    assert flushed.running
    return made


def _each_map(agent: Agent, name: str) -> list[str]:
    return [str(Pins(agent.bpffs, family).maps / name) for family in Family]


def _empty(agent: Agent, name: str) -> None:
    """Delete all elements of a hash map, in both families."""
    for path in _each_map(agent, name):
        with opened(Path(path)) as fd:
            shape = libbpf.map_info(fd)
            for key, _ in libbpf.map_dump(fd, shape.key_size, shape.value_size):
                assert libbpf.map_delete(fd, key)


def _zero(agent: Agent, name: str) -> None:
    """Write zeros over an array, in both families."""
    for path in _each_map(agent, name):
        with closing(ArrayMap(path, write=True)) as array:
            array.write(0, bytes(array.stride * array.max))


def _empty_array(agent: Agent, name: str, family: Family) -> None:
    """Take all programs out of a program array."""
    (directory,) = Pins(agent.bpffs, family).program_directories()
    with opened(directory / name) as fd:
        for index in range(libbpf.map_info(fd).max_entries):
            libbpf.map_delete(fd, index.to_bytes(4, sys.byteorder))


def _links(agent: Agent, kind: str) -> list[Path]:
    pins = [Pins(agent.bpffs, family) for family in Family]
    if kind == "devices":
        return list(pins[0].devices.iterdir())
    return [pin for each in pins for pin in each.links.iterdir()]


def _detach(agent: Agent, kind: str) -> None:
    for pin in _links(agent, kind):
        subprocess.run(["bpftool", "link", "detach", "pinned", str(pin)], check=True)


def _unpin_links(agent: Agent, kind: str) -> None:
    for pin in _links(agent, kind):
        pin.unlink()


def _unpin_maps(agent: Agent) -> None:
    for family in Family:
        shutil.rmtree(Pins(agent.bpffs, family).maps)


def _unpin_programs(agent: Agent) -> None:
    for family in Family:
        for directory in Pins(agent.bpffs, family).program_directories():
            shutil.rmtree(directory)


def _unpin_everything(agent: Agent) -> None:
    for each in agent.bpffs.iterdir():
        shutil.rmtree(each)


Harm = Callable[[Agent], None]
# what is done, and what the agent has to say of it
MENDED: dict[str, tuple[Harm, str]] = {
    "frontends": (lambda agent: _empty(agent, "frontends"), "in frontends"),
    "services": (lambda agent: _zero(agent, "services"), "in services"),
    "slots": (lambda agent: _zero(agent, "slots"), "in services"),
    "members": (lambda agent: _empty(agent, "members"), "in members"),
    "names": (lambda agent: _empty(agent, "service_names"), "in service_names"),
    "nodes": (lambda agent: _empty(agent, "node_names"), "in node_names"),
    "marks": (lambda agent: _zero(agent, "marks"), "in marks"),
    "settings": (lambda agent: _zero(agent, "settings"), "settings were changed"),
    "devices": (lambda agent: _empty(agent, "devices"), "devices or addresses were changed"),
    "addresses": (
        lambda agent: _empty(agent, "node_addresses"),
        "devices or addresses were changed",
    ),
    "stages": (lambda agent: _empty_array(agent, "stages", Family.IPV6), "gone from our program"),
    "other-family": (
        lambda agent: _empty_array(agent, "other_family", Family.IPV4),
        "gone from our program",
    ),
    "devices-detached": (lambda agent: _detach(agent, "devices"), "programs were gone from eth0"),
    "devices-unpinned": (
        lambda agent: _unpin_links(agent, "devices"),
        "programs were gone from eth0",
    ),
    "sockets-detached": (lambda agent: _detach(agent, "sockets"), "socket programs were gone"),
    "sockets-unpinned": (
        lambda agent: _unpin_links(agent, "sockets"),
        "socket programs were gone",
    ),
}
STARTED_ANEW: dict[str, Harm] = {
    "maps-unpinned": _unpin_maps,
    "programs-unpinned": _unpin_programs,
    "everything-unpinned": _unpin_everything,
}


def _said(agent: Agent, start: int) -> str:
    """Return what the agent has logged from there on."""
    with agent.log.open(encoding="utf-8") as log:
        log.seek(start)
        return log.read()


@pytest.mark.parametrize("name", MENDED)
def test_sequence_external_flush(flushed: Agent, ways: Ways, name: str) -> None:
    """The agent names what it has found, everything works again, and then it has no more to say."""
    harm, words = MENDED[name]
    before, start = flushed.services(), os.path.getsize(flushed.log)  # noqa: PTH202 - as seek() counts
    harm(flushed)
    wait_for(lambda: words in _said(flushed, start), PERIOD_S + LATE_S, f"{words!r} in the log")
    wait_for(lambda: not ways.broken(), 5, "everything to work")
    assert flushed.services() == before
    # the words are of one family; the other one is mended a moment later
    wait_for(lambda: flushed.healthz() == 200, 5, "both families' programs")


def test_a_look_at_what_is_right_says_nothing(flushed: Agent, ways: Ways) -> None:
    """Nothing is found after all that was mended, for more than a period."""
    start = os.path.getsize(flushed.log)  # noqa: PTH202 - as above
    time.sleep(PERIOD_S + LATE_S)
    assert _said(flushed, start) == ""
    assert not ways.broken()


@pytest.mark.once
@pytest.mark.parametrize("name", STARTED_ANEW)
def test_sequence_external_flush_of_pins(flushed: Agent, ways: Ways, name: str) -> None:
    """Only a start makes pins again: the same process begins anew, and everything works."""
    pid, before, start = flushed.pid, flushed.services(), os.path.getsize(flushed.log)  # noqa: PTH202 - as above
    STARTED_ANEW[name](flushed)
    wait_for(lambda: "starting anew" in _said(flushed, start), PERIOD_S + LATE_S, "a start")
    wait_for(lambda: "synced: " in _said(flushed, start), 30, "the agent to be synced")
    wait_for(lambda: not ways.broken(), 5, "everything to work")
    assert flushed.running
    assert flushed.pid == pid
    assert flushed.services() == before
    assert flushed.status()["problems"] == []

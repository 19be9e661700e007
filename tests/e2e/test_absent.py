# SPDX-License-Identifier: Apache-2.0
"""Nodes that lack something: what an agent says there, and what goes on.

A kernel as old as 5.15 is played by one that is told to take for missing what came later
(PYPROXY_ABSENT, see pyproxy/kernel/absent.py).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel import absent, requirements
from tests.e2e.scene import App, Scene
from tests.lab.agent import PYPROXY, Agent
from tests.lab.manifests import NOT_READY
from tests.lab.prober import answered

OLD_KERNEL = (absent.SET_RETVAL, absent.MPTCP, absent.TCX, absent.SOCK_DESTROY)
NEEDED = [
    each.name
    for each in requirements.requirements(None, Path())
    if each.required and each.name != absent.BCC
]


def without(*names: str) -> tuple[str, str]:
    """Return the command under which an agent takes things for missing."""
    return "env", f"{absent.VARIABLE}={','.join(names)}"


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.once
def test_an_agent_that_cannot_run_says_so_and_takes_nothing_away(
    own: Scene, web: App, agent: Agent, name: str
) -> None:
    """Status 1, what is missing and what to do; services go on, as the former agent left them."""
    agent.stop()
    before = agent.log.stat().st_size
    agent.launch(*without(name))
    assert agent.process
    assert agent.process.wait(20) == 1
    with agent.log.open("rb") as log:
        log.seek(before)
        said = log.read().decode()
    remedy = next(each.remedy for each in requirements.requirements(None, agent.bpffs)
                  if each.name == name)  # fmt: skip
    assert f"lacks what the agent needs: {name} (" in said
    assert remedy in said
    assert {each["name"] for each in agent.services()} == {web.name}
    for family in (4, 6):
        client = own.cluster.nodes[0].pods[0].prober
        assert not client.once(web.tcp(family)).error


@pytest.fixture(scope="module")
def old(own: Scene) -> Iterator[Agent]:
    """The agent of node2, on a kernel that has no more than 5.15 has, after a boot."""
    agent = own.agents[1]
    agent.stop()
    assert agent.cli("cleanup").status == 0
    agent.start(*without(*OLD_KERNEL))
    yield agent
    agent.stop()
    # on the same kernel: another one has no filters
    assert on_old_kernel(agent, "cleanup", "--cache-dir=/nowhere").returncode == 0
    agent.start()


def on_old_kernel(agent: Agent, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of pyproxy's for a node."""
    return agent.node.run(*without(*OLD_KERNEL), PYPROXY, *command, *agent.roots)


def test_an_old_kernel_has_every_service(own: Scene, web: App, old: Agent) -> None:
    """By filters of a clsact qdisc instead of tcx, and status has nothing against it."""
    own.await_backends(web, own.cluster.pods)
    for client in (old.node, *old.node.pods):
        for target in web.every_target():
            own.await_answers(client, target, own.cluster.pods)
    said = on_old_kernel(old, "status", "-o", "json")
    assert (said.returncode, json.loads(said.stdout)["problems"]) == (0, [])
    assert "pyproxy" in old.node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout


def test_an_old_kernel_leaves_refusing_to_packets(own: Scene, old: Agent) -> None:
    """A socket hook cannot refuse: what the connection sends is refused, and never EPERM."""
    idle = own.app("idle")
    own.put("idle.json", idle.service(), *idle.slices(own.cluster.pods, NOT_READY))
    for client in (old.node, old.node.pods[0]):
        for family in (4, 6):
            own.await_error(client, idle.tcp(family), "ECONNREFUSED")
    own.drop("idle.json")


def test_an_old_kernel_cannot_end_sockets(own: Scene, old: Agent) -> None:
    """A connected UDP socket of the node sends on to the backend that left, as status 0 allows."""
    app = own.app("left")
    first, second = old.node.pods[:2]
    own.run(app, [first])
    prober, target = old.node.prober, app.udp(4, connected=True)
    assert prober.open("kept", target).error == ""
    own.put(f"{app.name}.json", app.service(), *app.slices([second]))
    own.await_backends(app, [second])
    assert answered(prober.ask("kept", target, 2)) == {first.name: 2}
    prober.close("kept")
    own.drop(f"{app.name}.json")
    assert old.running

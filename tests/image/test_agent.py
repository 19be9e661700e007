# SPDX-License-Identifier: Apache-2.0
"""An agent in the image's root file system, read-only and as PID 1, does an agent's work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.scene import App, Scene
from tests.image.agents import ImageAgent
from tests.lab.prober import answered


def test_the_first_agent_compiles_and_keeps_what_the_second_one_loads(
    agents: list[ImageAgent],
) -> None:
    """The image's compiler and stub headers are enough, and the kept programs are found."""
    said = [agent.log.read_text(encoding="utf-8") for agent in agents]
    assert [said[0].count(f"compiling for {family}") for family in ("IPv4", "IPv6")] == [1, 1]
    assert "compiling for" not in said[1]
    assert len(list(agents[0].cache_dir.glob("*.bytecode"))) >= 2


@pytest.mark.parametrize("family", [4, 6, 46])
def test_connections_and_datagrams_reach_every_pod(scene: Scene, web: App, family: int) -> None:
    """From pods, whose sockets are translated."""
    pods = {pod.name for pod in scene.cluster.pods}
    for to in (web.tcp(family), web.udp(family)):
        for client in scene.cluster.pods:
            assert set(answered(client.prober.draw(to, 40))) == pods, f"{client.name} at {to}"


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_outside_reaches_every_pod(scene: Scene, web: App, family: int) -> None:
    """By packets."""
    pods = {pod.name for pod in scene.cluster.pods}
    for to in (web.tcp(family), web.udp(family)):
        assert set(answered(scene.cluster.stranger.prober.draw(to, 40))) == pods, f"at {to}"


def test_status_and_services_answer_in_the_container(agents: list[ImageAgent], web: App) -> None:
    """As `kubectl exec` runs them: beside an agent that is process 1 there."""
    for agent in agents:
        status = agent.cli("status", "-o", "json")
        assert status.status == 0, status.stderr
        assert (status.json["healthy"], status.json["problems"]) == (True, [])
        assert status.json["agent"]["pid"] == 1
        assert {service["name"] for service in agent.services()} == {web.name}
        assert agent.cli("check", "-o", "json").status == 0


def test_the_image_writes_rules_of_iptables(agents: list[ImageAgent]) -> None:
    """Its iptables-restore is what forwardAccept and the removal of kube-proxy's rules need."""
    for tool in ("iptables-save", "ip6tables-save"):
        saved = agents[0].inside(tool, "-t", "filter")
        assert "-A FORWARD -j PYPROXY-FORWARD" in saved.stdout, saved


def test_process_1_leaves_no_zombies_and_ends_by_sigterm(
    scene: Scene, agents: list[ImageAgent], web: App
) -> None:
    """No init is needed, connections go on meanwhile, and the next one starts in its place."""
    agent, client = agents[0], scene.cluster.pods[0]
    assert _zombies_of(agent.own_pid) == []
    assert agent.stop() < 2
    assert agent.process is not None
    assert agent.process.returncode == 0
    assert set(answered(client.prober.draw(web.tcp(), 40))) == {p.name for p in scene.cluster.pods}
    agent.start()
    assert agent.status()["healthy"]


def _zombies_of(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            stat = Path(f"/proc/{child}/stat").read_text(encoding="utf-8")
            if stat.rpartition(")")[2].split()[0] == "Z":
                found.append(stat)
    return found

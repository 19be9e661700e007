# SPDX-License-Identifier: Apache-2.0
"""The packet path goes on while agents die, come back, are replaced by another release."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.kernel.pins import LAYOUT, LAYOUT_VERSION, Pins
from pyproxy.model import Family
from tests.e2e.scene import FAMILIES, App, Scene, counters
from tests.e2e.traffic import BETWEEN, Traffic
from tests.lab import release
from tests.lab.agent import START_TIMEOUT_S, Agent
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

SIZES = 131072, 8192


def test_packets_flow_through_kill_restart_and_upgrade(own: Scene, web: App, agent: Agent) -> None:
    """Held TCP connections and UDP flows keep their backends, not one new connection fails."""
    client = own.cluster.free(own.cluster.nodes[0].pods[0])
    before = counters(agent, 4)
    other = release.another(own.cluster.directory / "release")

    def upgrade() -> None:
        agent.program = other
        agent.restart()

    with Traffic(own, web, client) as traffic:
        for act in (agent.kill, agent.start, agent.stop, agent.start, upgrade):
            act()
            traffic.expect_flow()
    assert ".another" in agent.status()["agent"]["version"]
    assert (counters(agent, 4) - before)["packet_open"] >= 2 * BETWEEN


def test_an_agent_of_another_layout_is_taken_over(own: Scene, web: App, agent: Agent) -> None:
    """Its programs, which run before ours, go once ours serve: nothing ends, and changes count."""
    pods = own.cluster.nodes[0].pods
    client = own.cluster.free(pods[0])
    agent.program = release.another(own.cluster.directory / "layout", LAYOUT_VERSION + 1)
    with Traffic(own, web, client) as traffic:
        agent.restart()
        traffic.expect_flow()
    assert not (agent.bpffs / LAYOUT).exists()
    for each in (client, pods[0]):
        own.await_answers(each, web.tcp(4), own.cluster.pods)
    own.run(web, own.cluster.pods[1:2])
    for each in (client, pods[0]):
        own.await_answers(each, web.tcp(4), own.cluster.pods[1:2])
    own.run(web, own.cluster.pods)


def test_a_table_of_another_size_keeps_its_connections(own: Scene, web: App, agent: Agent) -> None:
    """A changed connectionTable.maxEntries ends no connection, be it larger or smaller."""
    client = own.cluster.free(own.cluster.nodes[0].pods[0])
    file = own.cluster.directory / "pyproxy.yaml"
    # compiled before, as UDP flows that nobody uses meanwhile are forgotten after 30 s
    for entries in SIZES:
        resize(agent, entries, file)
    with Traffic(own, web, client) as traffic:
        for entries in SIZES:
            resize(agent, entries, file)
            traffic.expect_flow()


@pytest.mark.parametrize("after", ["loaded the programs", "moved "])
def test_moves_that_are_killed_lose_nothing(own: Scene, web: App, agent: Agent, after: str) -> None:
    """Agents with tables of one size and another, and back, each killed in the midst of it."""
    client = own.cluster.free(own.cluster.nodes[0].pods[0])
    file = own.cluster.directory / "pyproxy.yaml"
    with Traffic(own, web, client) as traffic:
        for entries in SIZES:
            configure(agent, entries, file)
            agent.stop()
            said = agent.log.read_text(encoding="utf-8").count(after)
            agent.launch()
            _await_log(agent, after, said)
            agent.kill()
            traffic.expect_flow()
        resize(agent, SIZES[0], file)
        traffic.expect_flow()
    for family in FAMILIES:
        (table,) = Pins(agent.bpffs, Family(family)).connection_tables()
        assert table.name == str(SIZES[0])


def _await_log(agent: Agent, words: str, before: int) -> None:
    """Wait until the log has said something once more."""

    def said() -> bool:
        return agent.log.read_text(encoding="utf-8").count(words) > before

    wait_for(said, START_TIMEOUT_S, words)


def resize(agent: Agent, entries: int, file: Path) -> None:
    """Restart an agent with a connection table of this size."""
    configure(agent, entries, file)
    agent.restart()


def configure(agent: Agent, entries: int, file: Path) -> None:
    """Give an agent a connection table of this size, from its next start on.

    The file that it runs with stays as it is, or it would end.
    """
    file = file.with_name(f"{entries}-{file.name}")
    text = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\n"
    file.write_text(text + f"connectionTable: {{maxEntries: {entries}}}\n", encoding="utf-8")
    kept = [each for each in agent.options if not each.startswith("--pyproxy-config")]
    agent.options = (*kept, f"--pyproxy-config={file}")

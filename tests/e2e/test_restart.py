# SPDX-License-Identifier: Apache-2.0
"""Traffic goes on while agents die, and an agent that comes back takes over what is pinned."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

import pytest

from pyproxy.agent import report
from pyproxy.agent.run import REPORT_AGAIN_S
from tests.e2e.scene import App, Scene
from tests.lab import bpf_objects
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.prober import answered
from tests.lab.waiting import wait_for

BETWEEN = 200  # new connections seen between two acts


@pytest.mark.parametrize("family", [4, 6])
def test_sequence_proxy_restart(own: Scene, web: App, agent: Agent, family: int) -> None:
    """SIGKILL and restart: a held connection lives, no new one fails, and new services work."""
    prober = own.cluster.nodes[0].pods[0].prober
    held = prober.open("held", web.tcp(family))
    assert held.error == ""
    server = prober.ask("held", web.tcp(family))[0].who
    for stream, target in (("tcp", web.tcp(family)), ("udp", web.udp(family))):
        prober.start(stream, target)
    for act in (lambda: None, agent.kill, agent.start, agent.stop, agent.start):
        act()
        _await_flow(own, BETWEEN)
        assert answered(prober.ask("held", web.tcp(family), 3)) == {server: 3}
    for stream in ("tcp", "udp"):
        outcomes = prober.stop(stream)
        assert [outcome for outcome in outcomes if outcome.error] == [], stream
        assert set(answered(outcomes)) == {pod.name for pod in own.cluster.pods}
    prober.close("held")
    later = own.app("later")
    own.run(later, own.cluster.pods)
    own.drop(f"{later.name}.json")


def _await_flow(own: Scene, more: int) -> None:
    prober = own.cluster.nodes[0].pods[0].prober
    for stream in ("tcp", "udp"):
        goal = prober.seen(stream)[0] + more
        wait_for(lambda s=stream, g=goal: prober.seen(s)[0] >= g, 20, f"{goal} of {stream}")  # type: ignore[misc]  # mypy can't infer a lambda with defaults


def test_restart_adopts_what_is_pinned(own: Scene, web: App, agent: Agent) -> None:
    """With unchanged manifests programs, maps and links keep their ids."""
    before = bpf_objects.owned(agent)
    services = agent.services()
    assert before.programs
    assert before.maps
    assert before.links
    agent.kill()
    agent.start()
    assert bpf_objects.owned(agent) == before
    assert agent.services() == services
    own.await_backends(web, own.cluster.pods)


def test_change_made_while_no_agent_ran(own: Scene, web: App, agent: Agent) -> None:
    """An agent that comes back writes what has changed, and takes away what has gone."""
    gone = own.app("gone")
    own.run(gone, own.cluster.pods)
    agent.kill()
    own.drop(f"{gone.name}.json")
    pods = own.cluster.pods[1:2]
    own.put(f"{web.name}.json", web.service(), *web.slices(pods))
    agent.start()
    own.await_backends(web, pods)
    assert {service["name"] for service in agent.services()} == {web.name}
    own.run(web, own.cluster.pods)


def test_a_file_that_is_broken_when_the_agent_starts_takes_nothing_away(
    own: Scene, agent: Agent
) -> None:
    """Its services stay as they were and status says so; mended, it counts again."""
    app, pods = own.app("broken"), own.cluster.pods
    own.run(app, pods[:1])
    file = own.directory / f"{app.name}.json"
    whole = file.read_text(encoding="utf-8")
    agent.stop()
    file.write_text(whole[:-20], encoding="utf-8")
    agent.start()
    client = own.cluster.nodes[0].pods[0]
    own.await_answers(client, app.tcp(4), pods[:1])
    wait_for(lambda: "kept" in _codes(agent), 5, "status to say what was kept")
    file.write_text(whole, encoding="utf-8")
    wait_for(lambda: not _codes(agent), 5, "status to be well")
    own.await_answers(client, app.tcp(4), pods[:1])
    own.drop(file.name)
    own.await_answers(client, app.tcp(4), [own.cluster.client])


def _oldest_thread(pid: int) -> int:
    """The thread that a process started first: those it starts later may end at any time."""
    threads = {
        int(path.parent.name): int(path.read_text().rsplit(")", 1)[1].split()[19])
        for path in Path("/proc", str(pid), "task").glob("*/stat")
        if path.parent.name != str(pid)
    }
    return min(threads, key=lambda thread: (threads[thread], thread))


def _codes(agent: Agent) -> set[str]:
    return {problem["code"] for problem in agent.status()["problems"]}


def test_sigterm_ends_the_agent_within_two_seconds(agent: Agent) -> None:
    """SIGTERM: gone within 2 s, exit status 0."""
    assert agent.stop() < 2
    assert agent.process is not None
    assert agent.process.returncode == 0


def test_sigterm_counts_whichever_thread_receives_it(agent: Agent) -> None:
    """The kernel may hand a signal to any thread (the main one may be stopped by a tracer)."""
    other = _oldest_thread(agent.pid)
    assert ctypes.CDLL(None).tgkill(agent.pid, other, signal.SIGTERM) == 0
    wait_for(lambda: not agent.running, 2, "the agent to end")


def test_commands_work_without_an_agent(web: App, agent: Agent) -> None:
    """`services` and `status` read the maps; status says that no agent runs."""
    while_running = agent.services()
    agent.kill()
    assert agent.services() == while_running
    reply = agent.cli("status", "-o", "json")
    assert reply.json["agent"] is None
    assert reply.json["healthy"] is False
    assert reply.status == 1
    assert web.name in agent.cli("services").stdout


def test_status_of_a_healthy_node(own: Scene, web: App, agent: Agent) -> None:
    """The keys of the contract, every expected program attached, exit status 0."""
    own.await_backends(web, own.cluster.pods)
    reply = agent.cli("status", "-o", "json")
    status = reply.json
    assert (reply.status, status["healthy"], status["problems"]) == (0, True, [])
    assert next(iter(status)) == "schema"
    assert status["schema"] == "pyproxy.status/1"
    assert status["agent"]["pid"] == agent.pid
    assert status["counts"]["services"] >= 1
    assert status["counts"]["endpoints"] >= len(own.cluster.pods)
    assert {p["hook"] for p in status["programs"]} >= {
        f"{hook}{family}"
        for hook in ("connect", "sendmsg", "recvmsg", "getpeername")
        for family in (4, 6)
    }
    assert all(p["attached"] for p in status["programs"] if p["expected"])
    assert all(0 <= m["used"] <= m["max"] for m in status["maps"])


@pytest.mark.once
def test_a_run_dir_that_cannot_be_written(own: Scene, web: App, agent: Agent) -> None:
    """The node is served, and status says that it knows nothing of the agent until it can be."""
    own.await_backends(web, own.cluster.pods)
    wait_for(lambda: not _codes(agent), 5, "status to be well")
    # a full disk is not to be had; nobody can write a file where a directory is
    obstacle = agent.run_dir / f"{report.STATE}.new"
    obstacle.mkdir()
    own.run(web, own.cluster.pods[:1])
    wait_for(lambda: _codes(agent) == {"no-report"}, 5, "status to miss the agent's report")
    obstacle.rmdir()
    wait_for(lambda: not _codes(agent), 2 * REPORT_AGAIN_S, "the agent to report")
    own.run(web, own.cluster.pods)


def test_agent_is_free_of_llvm(agent: Agent) -> None:
    """Compiling happens in a child: neither bcc nor LLVM is mapped into the agent."""
    maps = Path("/proc", str(agent.pid), "maps").read_text()
    assert "python" in maps
    assert not [name for name in ("LLVM", "libbcc", "clang") if name in maps]


def test_only_the_first_start_compiles(tmp_path: Path) -> None:
    """Without kernel headers: it opens nothing under /usr/src or /lib/modules.

    The next one loads what that has kept, though nothing is left in the kernel.
    """
    trace = tmp_path / "trace"
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        agent = cluster.agent(cluster.nodes[0])
        agent.cache_dir = tmp_path / "cache"
        # -D: the tracer is the grandchild, so that the agent keeps the process id.
        agent.start(
            "strace", "-D", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", str(trace)
        )
        agent.stop()
        assert agent.cli("cleanup").status == 0
        agent.start()
        agent.stop()
        said = agent.log.read_text()
    assert [said.count(words) for words in ("compiling for", "loaded the programs")] == [2, 2]
    lines = trace.read_text().splitlines()
    assert any("bpf/sock" in line or "types.h" in line for line in lines), "the loader was not seen"
    assert not [line for line in lines if '"/usr/src' in line or '"/lib/modules' in line]
    assert not [line for line in lines if '"/usr/lib/modules' in line]

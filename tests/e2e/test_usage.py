# SPDX-License-Identifier: Apache-2.0
"""Whatever an operator gets wrong ends in one sentence with the remedy and the right status."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.cli.main import main
from tests.lab.agent import PYPROXY, Agent
from tests.lab.cluster import Cluster

NOBODY = 65534
TIMEOUT_S = 20


class Said(NamedTuple):
    """What a command said and how it ended."""

    status: int
    stdout: str
    stderr: str


def _child(arguments: list[str], uid: int, answer: Connection) -> None:
    out, err = io.StringIO(), io.StringIO()
    if uid:
        # everything is imported by now: a clone in root's home would be out of reach
        os.setgid(uid)
        os.setuid(uid)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["pyproxy"]
        status = main(arguments)
    answer.send(Said(status, out.getvalue(), err.getvalue()))


def pyproxy(*arguments: object, uid: int = 0) -> Said:
    """Run a command in a child process, as another user if told so."""
    here, there = multiprocessing.Pipe()
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=_child, args=([str(a) for a in arguments], uid, there))
    child.start()
    try:
        assert here.poll(TIMEOUT_S), "the command did not end"
        said: Said = here.recv()
    finally:
        child.kill()
        child.join()
    assert "Traceback" not in said.stderr
    return said


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes; nothing is loaded on the first one."""
    with Cluster(nodes=2, pods_per_node=1) as made:
        yield made


@pytest.fixture(scope="module")
def agent(cluster: Cluster) -> Agent:
    """An agent that runs, on the second node."""
    made = cluster.agent(cluster.nodes[1])
    made.start()
    return made


def roots(cluster: Cluster) -> list[str]:
    """Return the options that are right for the first node."""
    return cluster.agent(cluster.nodes[0]).roots


def test_a_wrong_flag_is_named(cluster: Cluster) -> None:
    """Wrong usage is exit status 2."""
    said = pyproxy("run", "--manifest", "x", *roots(cluster))
    assert said.status == 2
    assert "--manifest" in said.stderr


def test_an_agent_needs_a_source(cluster: Cluster) -> None:
    """Outside of a pod and without --kubeconfig or --manifests it says what to give."""
    said = pyproxy("run", *roots(cluster))
    assert said.status == 1
    assert "--kubeconfig" in said.stderr.splitlines()[-1]


def test_two_sources_are_wrong_usage(cluster: Cluster) -> None:
    """Objects come from one place."""
    said = pyproxy("run", "--manifests=/a", "--kubeconfig=/b", *roots(cluster))
    assert said.status == 2
    assert "--kubeconfig" in said.stderr


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--cgroup-root", "/nowhere", "cgroup2"),
        ("--cgroup-root", "/proc", "cgroup2"),
        ("--bpffs-root", "/tmp/pyproxy", "mount -t bpf"),  # noqa: S108 - nothing is made there
        ("--run-dir", "/proc/pyproxy", "--run-dir"),
        ("--cluster-cidr", "10.0.0.0", "CIDR"),
        ("--healthz-bind-address", "localhost:1", "IP:port"),
        ("--hostname-override", " ", "hostname-override"),
        ("--config", "/nowhere", "--config"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(
    cluster: Cluster, option: str, value: str, remedy: str
) -> None:
    """One sentence, exit status 2, and nothing was loaded."""
    given = [r for r in roots(cluster) if not r.startswith(option)]
    folder = cluster.directory / "manifests"
    said = pyproxy("run", f"--manifests={folder}", *given, f"{option}={value}")
    assert said.status == 2
    assert said.stderr.count("\n") == 1
    assert remedy in said.stderr
    assert pyproxy("status", *roots(cluster)).status == 3


def test_a_missing_manifests_directory_is_named(cluster: Cluster) -> None:
    """The directory must exist when the agent starts."""
    said = pyproxy("run", "--manifests=/nowhere", *roots(cluster))
    assert said.status == 1
    assert "/nowhere" in said.stderr.splitlines()[-1]


def test_bcc_that_is_missing_is_named_with_its_package(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader's reason reaches the operator."""
    (tmp_path / "bcc.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = cluster.directory / "manifests"
    said = pyproxy("run", f"--manifests={folder}", *roots(cluster))
    assert said.status == 1
    assert "python3-bpfcc" in said.stderr


@pytest.mark.parametrize("command", ["run", "cleanup", "status", "services", "check"])
def test_without_root_every_command_says_so(agent: Agent, command: str) -> None:
    """Root is the remedy, and no command ends well without it."""
    source = [agent.source] if command == "run" else []
    said = pyproxy(command, *source, *agent.roots, uid=NOBODY)
    assert said.status == {"status": 3, "services": 3}.get(command, 1)
    assert "root" in said.stdout + said.stderr


@pytest.mark.parametrize("command", ["status", "services"])
def test_nothing_loaded_is_unknown(cluster: Cluster, command: str) -> None:
    """Exit status 3, and with -o json still one object."""
    said = pyproxy(command, "-o", "json", *roots(cluster))
    assert said.status == 3
    assert next(iter(json.loads(said.stdout).items())) == ("schema", f"pyproxy.{command}/1")
    said = pyproxy(command, *roots(cluster))
    assert (said.status, said.stdout.count("\n")) == (3, 1)
    assert "pyproxy run" in said.stdout


def test_check_says_what_the_node_can_do(cluster: Cluster) -> None:
    """Every requirement is listed; a missing one is exit status 1 with its remedy."""
    said = pyproxy("check", "-o", "json", *roots(cluster))
    answer = json.loads(said.stdout)
    assert (said.status, answer["schema"], answer["healthy"]) == (0, "pyproxy.check/1", True)
    assert {"cgroup2", "bpffs", "bcc", "tcx"} <= {each["name"] for each in answer["checks"]}
    said = pyproxy("check", "--bpffs-root=/proc", f"--cgroup-root={cluster.nodes[0].root}")
    assert said.status == 1
    assert "mount -t bpf" in said.stdout


def test_two_agents_do_not_share_a_run_dir(agent: Agent) -> None:
    """The second one names the first and changes nothing."""
    said = pyproxy("run", agent.source, *agent.roots)
    assert said.status == 1
    assert f"(pid {agent.pid})" in said.stderr
    assert "--run-dir" in said.stderr


def test_a_full_stdout_is_no_success(cluster: Cluster) -> None:
    """What cannot be said is said on stderr, in one sentence."""
    agent = cluster.agent(cluster.nodes[0])
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [PYPROXY, "check", "-o", "json", *agent.roots],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "pyproxy: No space left on device\n"


def test_cleanup_sees_an_agent_with_another_run_dir(agent: Agent, tmp_path: Path) -> None:
    """It is the bpffs root that must not be taken away under an agent."""
    roots = [r for r in agent.roots if not r.startswith("--run-dir")]
    said = pyproxy("cleanup", *roots, f"--run-dir={tmp_path}")
    assert said.status == 1
    assert "--force" in said.stderr


def test_sigterm_ends_an_agent_that_is_still_compiling(cluster: Cluster, tmp_path: Path) -> None:
    """Whatever phase of its start it is in, it ends within 2 s and with 0."""
    agent = cluster.agent(cluster.nodes[0])
    agent.cache_dir = tmp_path / "cache"
    for delay_s in (0.3, 0.6, 0.9, 1.2, 1.5):
        agent.launch()
        assert agent.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.process.wait(delay_s)
        assert agent.stop() < 2
        assert agent.process.returncode in {0, -signal.SIGTERM}
        assert agent.cli("cleanup").status == 0

# SPDX-License-Identifier: Apache-2.0
"""When an agent removes what kube-proxy has left: once, and not while anything depends on it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyproxy.agent.former import FormerProxy
from pyproxy.kernel import kubeproxy, kubeproxy_ipvs, kubeproxy_running
from tests.lab.waiting import wait_for


class Host:
    """What a node would say, and what an agent has started there."""

    def __init__(self) -> None:
        self.has_rules = True
        self.error: OSError | None = None
        self.looks = 0
        self.runs = ""
        self.connections = 0
        self.started: list[list[str]] = []
        self.says = "print('removed 7 chains')"

    def is_there(self) -> bool:
        """Stand for kubeproxy.is_there()."""
        self.looks += 1
        if self.error:
            raise self.error
        return self.has_rules


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """A node with rules, on which kube-proxy does not run."""
    made, popen = Host(), subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        made.started.append(command)
        found: subprocess.Popen[str] = popen([sys.executable, "-S", "-c", made.says], **options)
        return found

    monkeypatch.setattr(kubeproxy, "is_there", made.is_there)
    monkeypatch.setattr(kubeproxy_running, "running", lambda _: made.runs)
    monkeypatch.setattr(kubeproxy_ipvs, "connections", lambda: made.connections)
    monkeypatch.setattr(subprocess, "Popen", start)
    return made


def test_rules_are_removed_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """By the command that an operator has, too; what it says is in the log."""
    caplog.set_level("INFO")
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    made.look()
    wait_for(lambda: caplog.messages, 10, "a line")
    assert caplog.messages == ["kube-proxy's rules: removed 7 chains"]
    (command,) = host.started
    assert command[1:] == ["-m", "pyproxy", "cleanup", "--kube-proxy", "--run-dir", "/run/here"]
    assert host.looks == 1
    made.stop()


def test_what_cannot_be_removed_is_a_warning(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """And tried again by the next start."""
    host.says = "import sys; sys.exit('pyproxy: not removed: rules')"
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    wait_for(lambda: caplog.messages, 10, "a line")
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("WARNING", "kube-proxy's rules: pyproxy: not removed: rules")
    ]
    made.look()
    assert len(host.started) == 1


@pytest.mark.parametrize("case", ["unwanted", "nothing", "unknown"])
def test_nothing_is_started(host: Host, case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where that is not wanted, there is nothing, or nobody can tell; there is one look at most."""
    host.has_rules = case != "nothing"
    host.error = PermissionError("no") if case == "unknown" else None
    made = FormerProxy(Path("/run/here"), wanted=case != "unwanted")
    made.look()
    host.has_rules, host.error = True, None
    made.look()
    made.stop()
    assert host.started == []
    assert host.looks == (case != "unwanted")
    assert bool(caplog.messages) is (case == "unknown")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR, errno.ENOENT])
def test_rules_that_others_change_meanwhile_are_looked_at_again(host: Host, number: int) -> None:
    """What cannot be read for it is no reason to leave kube-proxy's where they are."""
    host.error = OSError(number, "try again")
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    assert host.started == []
    host.error = None
    made.look()
    assert len(host.started) == 1
    made.stop()


def test_a_node_without_room_for_a_process_keeps_its_agent(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rules stay, and the log says so: all else is served."""
    assert host.has_rules

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    assert "Resource temporarily unavailable" in caplog.text
    made.stop()


def test_what_is_no_text_ends_nothing(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A tool may say anything in any encoding; an agent ends when a thread of it does."""
    caplog.set_level("INFO")
    host.says = "import sys; sys.stdout.buffer.write(b'removed \\xff')"
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    wait_for(lambda: caplog.messages, 10, "a line")
    assert caplog.messages == ["kube-proxy's rules: removed \ufffd"]
    made.stop()


@pytest.mark.parametrize("reason", ["kube-proxy (pid 7)", "IPVS, which carries 3 connections,"])
def test_it_waits_and_says_so_once(
    host: Host, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While kube-proxy runs, or IPVS has connections that would end (A21.5)."""
    host.runs, host.connections = ("", 3) if "IPVS" in reason else (reason, 0)
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    made.look()
    assert caplog.messages == [f"kube-proxy's rules stay until {reason} has ended"]
    assert (host.started, host.looks) == ([], 1)
    host.runs, host.connections = "", 0
    made.look()
    assert len(host.started) == 1
    made.stop()


def test_an_agent_that_ends_waits_for_nobody(host: Host) -> None:
    """What was not removed is removed by the next start."""
    host.says = "import time; time.sleep(600)"
    made = FormerProxy(Path("/run/here"), wanted=True)
    made.look()
    made.stop()
    assert made._child is not None
    assert made._child.wait(5) < 0

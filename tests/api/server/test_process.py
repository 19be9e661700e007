# SPDX-License-Identifier: Apache-2.0
"""The server as a process of its own does the same by its control socket."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.server.asking import SERVICES, WatchClient, get
from tests.apiserver import ApiServer, CommandError
from tests.apiserver.__main__ import parse_arguments, parse_listen
from tests.builders import service

ROOT = Path(__file__).parents[3]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A server's process that listens, and its control socket."""
    control = tmp_path / "control"
    command = [sys.executable, "-m", "tests.apiserver", "--control", str(control)]
    command += ["--listen", "127.0.0.1:0", "--until-stdin-closes"]
    started = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with started:
        assert started.stdout
        assert started.stdout.readline().startswith("https://127.0.0.1:")
        yield started, control
        started.terminate()


def test_a_server_of_another_process(process: tuple[subprocess.Popen[str], Path]) -> None:
    """Objects, watches, faults, restarts and the log go through the control socket."""
    with ApiServer.at(process[1]) as server:
        revision = server.put(service("a"))
        with WatchClient(server, SERVICES, {"resourceVersion": revision}) as watch:
            server.put(service("b"))
            assert watch.brief() == ("ADDED", "b")
        server.fault("answer", "services", status=503, retry_after=1)
        assert get(server, SERVICES).status == 503
        server.restart("newer")
        assert get(server, SERVICES).names == ["a", "b"]
        assert [seen.status for seen in server.asked("services", "list")] == [503, 200]
        with pytest.raises(CommandError, match="there is no Service default/c"):
            server.delete("Service", "default", "c")
        with pytest.raises(CommandError, match="no command"):
            server._call("explode")


@pytest.mark.parametrize("end", ["signal", "stdin"])
def test_it_ends_and_leaves_nothing(process: tuple[subprocess.Popen[str], Path], end: str) -> None:
    """By SIGTERM, or when who started it is gone; its files go with it."""
    started, control = process
    with ApiServer.at(control) as server:
        authority = server.authority
    if end == "signal":
        started.send_signal(signal.SIGTERM)
    else:
        assert started.stdin
        started.stdin.close()
    assert started.wait(5) == 0
    assert authority
    assert not authority.parent.exists()
    assert not control.exists()


def test_where_to_listen() -> None:
    """An address of either family with its port; anything else is usage."""
    assert parse_listen("192.0.2.1:6443") == ("192.0.2.1", 6443)
    assert parse_listen("[2001:db8::1]:0") == ("2001:db8::1", 0)
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--control", "x", "--listen", "6443"])
    assert ended.value.code == 2
    assert isinstance(parse_arguments(["--control", "x"]), argparse.Namespace)

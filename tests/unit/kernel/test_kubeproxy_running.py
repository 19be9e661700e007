# SPDX-License-Identifier: Apache-2.0
"""Whether kube-proxy runs on this node: by its process, or by its ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.kernel import kubeproxy_running
from pyproxy.kernel.kubeproxy_running import running

HERE, ELSEWHERE = "net:[1]", "net:[2]"
HEAD = "  sl  local_address rem_address   st"


class Proc:
    """A /proc of the test's own; the agent's pid is 7."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process("thread-self", "pyproxy")
        (root / "thread-self/net").mkdir()
        self.process("7", "pyproxy")
        self.lines = [HEAD]
        self._number = 0

    def process(self, pid: str, name: str, namespace: str = HERE) -> None:
        """Add a process."""
        (self.root / pid / "ns").mkdir(parents=True)
        (self.root / pid / "fd").mkdir()
        (self.root / pid / "comm").write_text(f"{name}\n")
        (self.root / pid / "ns/net").symlink_to(namespace)

    def socket(self, port: int, pid: str = "", state: str = "0A") -> None:
        """Add a socket with a local port, of a process that is seen, or of none."""
        self._number += 1
        fields = f"0: 0100007F:{port:04X} 00000000:0000 {state} 0:0 0:0 0 0 0 {self._number} 1"
        self.lines.append(fields)
        (self.root / "thread-self/net/tcp").write_text("\n".join(self.lines))
        if pid:
            (self.root / pid / "fd" / str(self._number)).symlink_to(f"socket:[{self._number}]")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    """A node on which only our agent runs."""
    monkeypatch.setattr(kubeproxy_running, "PROC", tmp_path)
    monkeypatch.setattr(kubeproxy_running, "PROC_NET", tmp_path / "thread-self/net")
    return Proc(tmp_path)


def test_a_process_of_its_name(proc: Proc) -> None:
    """In this network namespace: others have a kube-proxy of their own, as nodes of kind."""
    proc.process("8", "kube-proxy-x")
    proc.process("9", "kube-proxy", ELSEWHERE)
    assert running(7) == ""
    proc.process("10", "kube-proxy")
    assert running(7) == "kube-proxy (pid 10)"


def test_its_ports(proc: Proc) -> None:
    """Where processes of other containers are not seen, who listens there and is not our agent."""
    proc.socket(10256, "7")
    proc.socket(10249, "7")
    proc.socket(10257)
    proc.socket(10256, state="01")
    assert running(7) == ""
    proc.socket(10249)
    assert running(7) == "whoever listens on port 10249, kube-proxy's by default"


def test_ports_while_no_agent_runs(proc: Proc) -> None:
    """They are nobody's but kube-proxy's; an agent that is not seen may have them."""
    proc.socket(10256)
    assert "10256" in running(None)
    assert running(1234) == ""

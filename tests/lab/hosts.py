# SPDX-License-Identifier: Apache-2.0
"""Where processes run: a pod, a node or a host outside."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tests.lab.prober import Prober
from tests.lab.topology import PodNet

SCRIPTS = Path(__file__).parent
PORTS = (8080, 9090)

# The shell joins the cgroup and becomes nsenter, which becomes the command: one process, so
# that its id is the command's. `ip netns exec` would hide bpffs and cgroups (it remounts /sys).
ENTER = 'echo $$ >"$1/cgroup.procs" && net=$2 && shift 2 && exec nsenter --net="$net" -- "$@"'


class Host:
    """A network namespace with a cgroup and addresses."""

    # what runs this folder's scripts there, with the standard library alone (20 ms)
    interpreter: tuple[str, ...] = (sys.executable, "-I", "-S")
    scripts = SCRIPTS

    def __init__(self, name: str, netns: Path, cgroup: Path, ipv4: str, ipv6: str) -> None:
        self.name = name
        self.netns = netns
        self.cgroup = cgroup
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.node_name = name  # of a pod: where it runs
        self.is_pod = False
        self.processes: list[subprocess.Popen[Any]] = []
        self._prober: Prober | None = None

    def address(self, family: int) -> str:
        """Return the address of family 4 or 6."""
        return self.ipv6 if family == 6 else self.ipv4

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs `argv` in the namespace and the cgroup."""
        head = ["/bin/sh", "-c", ENTER, "enter", str(self.cgroup), str(self.netns)]
        return [*head, *map(str, argv)]

    def run(self, *argv: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; options as subprocess.run, output captured as text."""
        settings = {"capture_output": True, "text": True, "check": False, "timeout": 30}
        return subprocess.run(self.command(argv), **{**settings, **options})  # noqa: PLW1510 - "check" is in settings

    def popen(self, *argv: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """Start a command; options as subprocess.Popen. Its pid is the command's own."""
        process = subprocess.Popen(self.command(argv), **options)
        self.processes.append(process)
        return process

    def reap(self) -> None:
        """Collect what `popen` started and close its pipes; the processes have ended."""
        for process in self.processes:
            process.wait(timeout=10)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    _close(pipe)

    def python(self, script: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a script of this folder."""
        argv = (*self.interpreter, str(self.scripts / script), *arguments)
        return self.popen(*argv, stdout=subprocess.PIPE, **options)

    def script(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script of this folder to its end."""
        return self.run(*self.interpreter, str(self.scripts / script), *arguments)

    def respond(
        self, ports: Sequence[int] = PORTS, addresses: Sequence[str] = ()
    ) -> subprocess.Popen[Any]:
        """Start a responder (see respond.py); `await_ready` tells when it listens."""
        where = [",".join(addresses)] if addresses else []
        return self.python("respond.py", self.name, ",".join(map(str, ports)), *where)

    @property
    def prober(self) -> Prober:
        """The host's prober, started with the first use."""
        if self._prober is None:
            process = self.python("probe.py", stdin=subprocess.PIPE)
            self._prober = Prober(self.name, process)
        return self._prober


def _close(pipe: IO[Any]) -> None:
    # What is left in a buffer can't be written: the reader is gone.
    with contextlib.suppress(OSError):
        pipe.close()


class Pod(Host):
    """A pod, which knows the name of its node and how it is wired."""

    def __init__(self, net: PodNet, node_name: str, netns: Path, cgroup: Path) -> None:
        super().__init__(net.name, netns, cgroup, net.ipv4, net.ipv6)
        self.net = net
        self.node_name = node_name
        self.is_pod = True


class Node(Host):
    """A node with its pods; `root` is the cgroup that plays its cgroup2 root."""

    def __init__(self, name: str, netns: Path, root: Path, ipv4: str, ipv6: str) -> None:
        super().__init__(name, netns, root / "host", ipv4, ipv6)
        self.root = root
        self.pods: list[Pod] = []


def await_ready(responder: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a responder says that it listens."""
    assert responder.stdout
    if responder.stdout.readline() != b"ready\n":
        raise RuntimeError(f"the responder of {name} did not start (see stderr)")

# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout in which the tests run against changed C sources.

The tests find bpf/ beside the package that they import, so a whole copy is what they need:
PYTHONPATH comes before the .venv's link to the checkout. They run in a mount namespace of
their own, so that the pins and namespaces of tests that had to be killed end with them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import IO, NamedTuple, Self
from xml.etree import ElementTree as ET

from pyproxy.errors import PyproxyError
from tests.lab import cgroups
from tests.lab.waiting import wait_for

TESTS = Path("tests", "datapath")
# one test; the slowest takes 1.5 s, and children of tests are waited for for 30 s
TEST_LIMIT_S = 45
END_LIMIT_S = 10

# what the loader says (pyproxy/kernel/compiler.py and create.py)
UNLOADABLE = ("the programs do not compile", "the kernel does not load")
_HUNG = "Timeout ("  # pytest-timeout
_SEPARATED = ("unshare", "--mount", "--propagation", "private", "--")


class BrokenTrialError(PyproxyError):
    """The tests could not run, which says nothing about the mutant."""


class Outcome(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    UNLOADABLE = "killed by loading"
    HUNG = "killed by time"
    SURVIVED = "survived"


class Verdict(NamedTuple):
    """An outcome, and the test that decided it ("": none did)."""

    outcome: Outcome
    by: str = ""

    @property
    def file(self) -> str:
        """The test file that decided."""
        return self.by.partition("::")[0]


class Tree:
    """A copy of the checkout in `directory`, with the same .venv.

    `separated` is the command that runs another one in a mount namespace of its own.
    """

    def __init__(self, directory: Path, separated: Sequence[str]) -> None:
        self.directory = directory
        self._separated = separated
        self._mark = f"PYPROXY_MUTANT={directory}"

    @classmethod
    def copy(
        cls,
        checkout: Path,
        files: Sequence[str],
        directory: Path,
        separated: Sequence[str] = _SEPARATED,
    ) -> Self:
        """Make a copy of these files of the checkout."""
        for name in files:
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target, follow_symlinks=False)
        (directory / ".venv").symlink_to((checkout / ".venv").resolve())
        return cls(directory, separated)

    @property
    def bpf(self) -> Path:
        """The C sources."""
        return self.directory / "bpf"

    def tests(self) -> list[str]:
        """Return the names of the test files."""
        return sorted(path.name for path in (self.directory / TESTS).glob("test_*.py"))

    def check(self) -> None:
        """Raise BrokenTrialError unless the tests would run against this copy's sources."""
        code = "from pyproxy.kernel.source import bpf_directory; print(bpf_directory())"
        seen = self._start([self._python, "-c", code], stdout=subprocess.PIPE).communicate()[0]
        if Path(seen.decode().strip() or "/").resolve() != self.bpf.resolve():
            raise BrokenTrialError(
                f"tests in a copy of the checkout find the C sources {seen.decode().strip()!r}",
                "scripts/test unit makes .venv anew",
            )

    def run(self, tests: Sequence[str], limit_s: float) -> Verdict:
        """Run the test files in this order until one fails, or the limit is over."""
        report = self.directory / "report.xml"
        report.unlink(missing_ok=True)
        paths = [str(TESTS / name) for name in tests]
        log = self.directory / "log.txt"
        with log.open("wb") as file:
            child = self._start(self._pytest(report, paths), stdout=file)
            try:
                status = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                return Verdict(Outcome.HUNG, "all tests")
            finally:
                self._clear(child)
        if status == 0:
            return Verdict(Outcome.SURVIVED)
        if status != 1:
            words = log.read_text(errors="replace").strip().splitlines()[-20:]
            raise BrokenTrialError(f"pytest ended with {status}:\n" + "\n".join(words))
        return judge(report.read_text(encoding="utf-8"))

    def stop(self) -> None:
        """End the run that another thread waits for, which raises BrokenTrialError there."""
        kill_marked(self._mark)

    @property
    def _python(self) -> str:
        return str(self.directory / ".venv" / "bin" / "python")

    def _pytest(self, report: Path, paths: Sequence[str]) -> list[str]:
        return [
            *self._separated,
            *(self._python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
            *(f"--timeout={TEST_LIMIT_S}", f"--basetemp={self.directory / 'tmp'}"),
            *("-o", "junit_family=xunit1", f"--junitxml={report}", *paths),
        ]

    def _start(self, command: Sequence[str], stdout: int | IO[bytes]) -> subprocess.Popen[bytes]:
        name, _, value = self._mark.partition("=")
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=os.environ | {name: value, "PYTHONPATH": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )

    def _clear(self, child: subprocess.Popen[bytes]) -> None:
        """End what a run left: its processes, found by their environment, and its cgroups."""
        child.kill()
        child.wait()
        wait_for(lambda: not kill_marked(self._mark), END_LIMIT_S, "the tests' processes to end")
        root = cgroups.mounted_root()
        for path in root.glob(f"pyproxy-*-{child.pid}-*") if root else ():
            cgroups.remove(path)


def kill_marked(mark: str) -> list[int]:
    """Kill all processes with this entry in their environment; return their ids."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and mark.encode() in _environment(process).split(b"\0"):
            found.append(int(process.name))
            with suppress(ProcessLookupError):
                os.kill(found[-1], signal.SIGKILL)
    return found


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        # it ended meanwhile
        return b""


def judge(report: str) -> Verdict:
    """Return the verdict that pytest's report, of a run with failures, gives."""
    root = ET.fromstring(report)  # noqa: S314 - our own pytest wrote it
    for case in root.iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                by = f"{Path(case.get('file', '')).name}::{case.get('name', '')}"
                return Verdict(_outcome(f"{found.get('message', '')}\n{found.text or ''}"), by)
    raise BrokenTrialError("pytest says that a test failed, but its report names none")


def _outcome(words: str) -> Outcome:
    if any(saying in words for saying in UNLOADABLE):
        return Outcome.UNLOADABLE
    return Outcome.HUNG if _HUNG in words else Outcome.KILLED

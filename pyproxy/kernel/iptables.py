# SPDX-License-Identifier: Apache-2.0
"""iptables' own commands: tables as text, and changes of several rules in one step."""

from __future__ import annotations

import subprocess

from pyproxy.errors import KernelError

LOCK_S = 5  # how long others may hold iptables' lock, as for kube-proxy
LONGEST_S = 15


def save(tool: str, table: str) -> list[str]:
    """Return what iptables-save says of a table, line by line; raises KernelError."""
    return _run([tool, "-t", table], "", LONGEST_S).splitlines()


def restore(tool: str, text: str, longest_s: float = LONGEST_S) -> None:
    """Change a table in one step, and nothing else in it; raises KernelError."""
    _run([tool, "--noflush", "-w", str(LOCK_S)], text, longest_s)


def _run(command: list[str], text: str, longest_s: float) -> str:
    tool = command[0]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=longest_s
        )
    except FileNotFoundError as error:
        raise KernelError(f"{tool} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{tool} did not end") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise KernelError(f"{tool}: {said or f'exit status {done.returncode}'}")
    return done.stdout

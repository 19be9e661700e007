# SPDX-License-Identifier: Apache-2.0
"""pyproxy cleanup."""

from __future__ import annotations

import os
from pathlib import Path

from pyproxy.cli.show import print_lines
from pyproxy.errors import KernelError, PyproxyError
from pyproxy.kernel import accepting
from pyproxy.kernel.cleanup import detach_and_unpin, forget_run_dir
from pyproxy.kernel.forward import CHAIN
from pyproxy.kernel.kept import Kept
from pyproxy.kernel.lock import holder, root_is_in_use
from pyproxy.model import Family


def clean(bpffs_root: Path, run_dir: Path, cache_dir: Path, *, force: bool) -> int:
    """Remove everything; return 0. Raises PyproxyError while an agent runs, unless forced."""
    if os.geteuid() != 0:
        raise PyproxyError("cleanup needs root", "run it as root or with sudo")
    agent = holder(run_dir)
    if not force:
        _refuse_under_agent(agent, bpffs_root, run_dir)
    pins = detach_and_unpin(bpffs_root, run_dir)
    Kept(cache_dir).forget()
    if agent is None:
        forget_run_dir(run_dir)
    _withdraw()
    print_lines([f"removed {pins} pins below {bpffs_root}" if pins else "nothing was there"])
    return 0


def _withdraw() -> None:
    """Take our rules out of netfilter's FORWARD; raises PyproxyError, when all else is gone."""
    for family in Family:
        try:
            accepting.withdraw(family)
        except (KernelError, OSError) as error:
            raise PyproxyError(
                f"rules of {CHAIN} stay in {family.label}'s table filter: {error}",
                "install the node's iptables, and clean up again; all else is removed",
            ) from error


def _refuse_under_agent(agent: int | None, bpffs_root: Path, run_dir: Path) -> None:
    if agent is not None:
        message = f"an agent (pid {agent}) runs with the run-dir {run_dir}"
    elif root_is_in_use(bpffs_root):
        message = f"an agent with another run-dir runs with the bpffs root {bpffs_root}"
    else:
        return
    raise PyproxyError(message, "stop it first, or take everything away under it with --force")

# SPDX-License-Identifier: Apache-2.0
"""pyproxy cleanup."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyproxy.cli.show import print_lines
from pyproxy.errors import KernelError, PyproxyError
from pyproxy.kernel import accepting, kubeproxy, kubeproxy_running
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


def clean_kube_proxy(run_dir: Path) -> int:
    """Remove what kube-proxy has left; return 1 if not all of it could be, else 0.

    An agent may run, which is told by its run-dir. Raises PyproxyError without root.
    """
    if os.geteuid() != 0:
        raise PyproxyError("cleanup needs root", "run it as root or with sudo")
    if who := kubeproxy_running.running(holder(run_dir)):
        _warn(f"{who} runs here, and will write its rules again: stop it, and clean up again")
    outcome = kubeproxy.remove()
    print_lines(f"removed {line}" for line in outcome.removed)
    print_lines(f"kept {line}" for line in outcome.kept)
    for line in outcome.failed:
        _warn(f"not removed: {line}")
    if not any(outcome):
        print_lines(["nothing of kube-proxy's was there"])
    return 1 if outcome.failed else 0


def _warn(line: str) -> None:
    print(f"pyproxy: {line}", file=sys.stderr)


def _withdraw() -> None:
    """Take our rules out of netfilter; raises PyproxyError, when all else is gone."""
    for family in Family:
        try:
            accepting.withdraw(family)
        except (KernelError, OSError) as error:
            raise PyproxyError(
                f"rules of {CHAIN} stay in {family.label}'s table filter: {error}",
                "install the node's iptables, and clean up again; all else is removed",
            ) from error
    try:
        kubeproxy.unhold_connections()
    except (KernelError, OSError) as error:
        raise PyproxyError(
            f"what keeps kube-proxy's connections translated stays: {error}",
            "mend what is named, and clean up again; all else is removed",
        ) from error


def _refuse_under_agent(agent: int | None, bpffs_root: Path, run_dir: Path) -> None:
    if agent is not None:
        message = f"an agent (pid {agent}) runs with the run-dir {run_dir}"
    elif root_is_in_use(bpffs_root):
        message = f"an agent with another run-dir runs with the bpffs root {bpffs_root}"
    else:
        return
    raise PyproxyError(message, "stop it first, or take everything away under it with --force")

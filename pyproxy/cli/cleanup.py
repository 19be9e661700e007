# SPDX-License-Identifier: Apache-2.0
"""pyproxy cleanup."""

from __future__ import annotations

import os
from pathlib import Path

from pyproxy.cli.show import print_lines
from pyproxy.errors import PyproxyError
from pyproxy.kernel.cleanup import detach_and_unpin, forget_run_dir
from pyproxy.kernel.lock import holder


def clean(bpffs_root: Path, run_dir: Path, *, force: bool) -> int:
    """Remove everything; return 0. Raises PyproxyError while an agent runs, unless forced."""
    if os.geteuid() != 0:
        raise PyproxyError("cleanup needs root", "run it as root or with sudo")
    agent = holder(run_dir)
    if agent is not None and not force:
        raise PyproxyError(
            f"an agent (pid {agent}) runs with the run-dir {run_dir}",
            "stop it first, or take everything away under it with --force",
        )
    pins = detach_and_unpin(bpffs_root, run_dir)
    if agent is None:
        forget_run_dir(run_dir)
    print_lines([f"removed {pins} pins below {bpffs_root}" if pins else "nothing was there"])
    return 0

# SPDX-License-Identifier: Apache-2.0
"""pyproxy check."""

from __future__ import annotations

from pathlib import Path

from pyproxy.cli.show import print_json, print_table
from pyproxy.kernel.requirements import check


def show(cgroup_root: Path | None, bpffs_root: Path, *, as_json: bool) -> int:
    """Print every requirement; return 0 if none that is required is missing, else 1."""
    checks = check(cgroup_root, bpffs_root)
    healthy = all(each.ok or not each.required for each in checks)
    if as_json:
        print_json("check", {"healthy": healthy, "checks": [each._asdict() for each in checks]})
    else:
        rows = [(_mark(c.ok, c.required), c.name, c.message, c.remedy) for c in checks]
        print_table("Checks", ("", "what", "found", "what to do"), rows)
    return 0 if healthy else 1


def _mark(ok: bool, required: bool) -> str:
    if ok:
        return "ok"
    return "MISSING" if required else "limited"

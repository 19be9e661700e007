# SPDX-License-Identifier: Apache-2.0
"""pyproxy check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.cli.show import print_json, print_table
from pyproxy.errors import ConfigError
from pyproxy.kernel.requirements import check
from pyproxy.kube.configwalk import Found
from pyproxy.kube.proxyconfig import examine
from pyproxy.kube.pyproxyconfig import examine_own

_REMEDY = "correct what is named"


class Files(NamedTuple):
    """The configuration to be looked at, too; None for none."""

    config: Path | None = None
    pyproxy_config: Path | None = None


def show(cgroup_root: Path | None, bpffs_root: Path, files: Files, *, as_json: bool) -> int:
    """Print every requirement, and what is in the files; return 0 if all is well, else 1.

    What runs with a warning, an unknown field or one that stands twice, is an error here
    (parity A19.1).
    """
    checks = check(cgroup_root, bpffs_root)
    found = _examined(files)
    healthy = all(each.ok or not each.required for each in checks)
    healthy = healthy and not any(each.errors for each in found.values())
    if as_json:
        made: dict[str, Any] = {"healthy": healthy, "checks": [each._asdict() for each in checks]}
        if found:
            made["files"] = [{"file": name} | each._asdict() for name, each in found.items()]
        print_json("check", made)
        return 0 if healthy else 1
    rows = [(_mark(c.ok, c.required), c.name, c.message, c.remedy) for c in checks]
    for name, each in found.items():
        rows += [("WRONG", name, error, _REMEDY) for error in each.errors]
        rows += [("note", name, warning, "") for warning in each.warnings]
        rows += [] if each.errors else [("ok", name, "can be used", "")]
    print_table("Checks", ("", "what", "found", "what to do"), rows)
    return 0 if healthy else 1


def _examined(files: Files) -> dict[str, Found]:
    found = {}
    for path, look in ((files.config, examine), (files.pyproxy_config, examine_own)):
        if path is None:
            continue
        try:
            found[str(path)] = look(path)
        except ConfigError as error:
            found[str(path)] = Found([error.message], [])
    return found


def _mark(ok: bool, required: bool) -> str:
    if ok:
        return "ok"
    return "MISSING" if required else "limited"

# SPDX-License-Identifier: Apache-2.0
"""Another release of the program under test: the same code, whose BPF programs are others."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def another(folder: Path) -> tuple[str, ...]:
    """Copy the program into a new folder under another version; return how to start it.

    The version is part of what programs are pinned under, so the agent compiles its own and
    replaces those of the release before.
    """
    for part in ("pyproxy", "bpf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "pyproxy" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write('\n__version__ += ".another"\n')
    # the folder that it or its loader is started in must not win over the copy
    path = (f"PYTHONPATH={folder}", "PYTHONSAFEPATH=1")
    return ("/usr/bin/env", *path, sys.executable, "-m", "pyproxy")

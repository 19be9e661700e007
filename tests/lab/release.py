# SPDX-License-Identifier: Apache-2.0
"""Another release of the program under test: the same code, whose BPF programs are others."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pyproxy.kernel.pins import LAYOUT_VERSION

ROOT = Path(__file__).parents[2]


def another(folder: Path, layout: int = 0) -> tuple[str, ...]:
    """Copy the program into a new folder under another version; return how to start it.

    The version is part of what programs are pinned under, so the agent compiles its own and
    replaces those of the release before. With `layout` it has maps of its own, too.
    """
    for part in ("pyproxy", "bpf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "pyproxy" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write('\n__version__ += ".another"\n')
    if layout:
        pins = folder / "pyproxy" / "kernel" / "pins.py"
        text, line = pins.read_text(encoding="utf-8"), f"LAYOUT_VERSION = {LAYOUT_VERSION}\n"
        assert line in text
        pins.write_text(text.replace(line, f"LAYOUT_VERSION = {layout}\n"), encoding="utf-8")
    # the folder that it or its loader is started in must not win over the copy
    path = (f"PYTHONPATH={folder}", "PYTHONSAFEPATH=1")
    return ("/usr/bin/env", *path, sys.executable, "-m", "pyproxy")

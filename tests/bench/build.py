# SPDX-License-Identifier: Apache-2.0
"""Compiles the load tools of `load/` once for each state of their source."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pyproxy.errors import PyproxyError

SOURCES = Path(__file__).parent / "load"
TOOLS = ("server", "client", "prober", "await_http")
COMMON = ("process.c", "endpoint.c", "samples.c", "bulk.c")
COMPILER = ("gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Return where compiled tools are kept: outside of the checkout, as XDG says."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/root")) / ".cache"
    return Path(base) / "pyproxy" / "bench"


def build_tools(cache: Path) -> dict[str, Path]:
    """Return the path of each tool by name, compiling what the cache doesn't have.

    Raises PyproxyError when gcc is missing or refuses the source.
    """
    folder = cache / _source_key()
    if not folder.is_dir():
        _compile_into(folder)
    return {tool: folder / tool for tool in TOOLS}


def _source_key() -> str:
    digest = hashlib.sha256(repr(COMPILER).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _compile_into(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as scratch:
        built = Path(scratch) / "tools"
        built.mkdir()
        for tool in TOOLS:
            _compile(tool, built / tool)
        try:
            built.rename(folder)
        except OSError:
            # Another run finished the same source first: its tools are as good.
            if not folder.is_dir():
                raise


def _compile(tool: str, target: Path) -> None:
    sources = [SOURCES / f"{tool}.c", *(SOURCES / name for name in COMMON)]
    try:
        done = subprocess.run(
            [*COMPILER, "-o", target, *sources],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise PyproxyError("gcc is missing", "apt-get install gcc libc6-dev") from None
    if done.returncode != 0:
        raise PyproxyError(f"{tool}.c does not compile:\n{done.stderr}", "mend the source")

# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

BPFFS_ROOT = Path("/sys/fs/bpf/pyproxy")
RUN_DIR = Path("/run/pyproxy")
CACHE_DIR = Path("/var/cache/pyproxy")


def node_roots(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that tell agents on one machine apart."""
    path = click.Path(path_type=Path)
    options = (
        click.option("--cgroup-root", type=path, help="cgroup2 directory to serve."),
        click.option("--bpffs-root", type=path, default=BPFFS_ROOT, show_default=True,
                     help="Where everything is pinned."),
        click.option("--run-dir", type=path, default=RUN_DIR, show_default=True,
                     help="The agent's lock and state."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def cache_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --cache-dir."""
    path = click.Path(path_type=Path)
    words = "Compiled programs, kept for the next boot."
    return click.option("--cache-dir", type=path, default=CACHE_DIR, show_default=True, help=words)(
        command
    )


def output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -o table|json."""
    choice = click.Choice(["table", "json"])
    return click.option(
        "-o", "--output", "output_format", type=choice, default="table", show_default=True
    )(command)


def json_output(output_format: str) -> bool:
    """Return whether JSON is wanted."""
    return output_format == "json"

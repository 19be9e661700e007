# SPDX-License-Identifier: Apache-2.0
"""What a release promises in files that no program reads."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

import pyproxy
from pyproxy.kernel.pins import CONNECTIONS_VERSION, LAYOUT_VERSION

ROOT = Path(__file__).parents[2]


def read_yaml(name: str) -> Any:
    """Return what a YAML file of the project says."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_upgrade_notes_know_this_release() -> None:
    """The last row is this version's, with the layouts that it has."""
    text = (ROOT / "docs/upgrading.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| (\d+) \| (\d+) \| .+ \|$", text, re.MULTILINE)
    version = pyproxy.__version__.partition("+")[0].partition("dev")[0].rstrip(".")
    assert rows[-1] == (version, str(LAYOUT_VERSION), str(CONNECTIONS_VERSION))
    releases = [tuple(map(int, row[0].split("."))) for row in rows]
    assert releases == sorted(set(releases))


def test_the_workflow_runs_what_ci_runs() -> None:
    """Nothing is tested there in another way; actions are pinned by commit."""
    (job,) = read_yaml(".github/workflows/ci.yaml")["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each) for each in used)


def test_every_hook_of_pre_commit_can_run() -> None:
    """What they call is of this checkout, and so are the files that they name."""
    (repo,) = read_yaml(".pre-commit-config.yaml")["repos"]
    for hook in repo["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        assert program.startswith(".venv/") or os.access(ROOT / program, os.X_OK)
        assert all((ROOT / each).exists() for each in arguments if each.endswith(".py"))

# SPDX-License-Identifier: Apache-2.0
"""The way into a real cluster (--kubeconfig), tried on the lab's by a kubectl of the lab's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.scene import Scene
from tests.lab.hosts import SCRIPTS, Host

pytestmark = pytest.mark.once

TIMEOUT_S = 240
LEAST = 120  # tests that run anywhere


def _node(host: Host) -> object:
    addresses = [{"type": "InternalIP", "address": a} for a in (host.ipv4, host.ipv6)]
    return {"metadata": {"name": host.name}, "spec": {}, "status": {"addresses": addresses}}


def _kubeconfig(scene: Scene, directory: Path) -> Path:
    hosts = [*scene.cluster.nodes, *scene.cluster.pods]
    pods = {
        each.name: {"ips": [each.ipv4, each.ipv6], "command": each.command([])} for each in hosts
    }
    lab = {
        "manifests": str(scene.directory),
        "nodes": [_node(each) for each in scene.cluster.nodes],
        "pods": pods,
    }
    file = directory / "kubeconfig"
    file.write_text(json.dumps(lab), "utf-8")
    return file


def _path_with_kubectl(directory: Path) -> str:
    kubectl = directory / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{SCRIPTS}/fake_kubectl.py" "$@"\n')
    kubectl.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_the_suite_runs_by_kubectl(scene: Scene, tmp_path: Path) -> None:
    """Every test that is marked `anywhere` passes with pods that are entered by `kubectl exec`."""
    kubeconfig = _kubeconfig(scene, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e",
         "--kubeconfig", str(kubeconfig), "--socket-translation", scene.translation],
        env={**os.environ, "PATH": _path_with_kubectl(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[:4000] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= LEAST
    # what it has made is gone again
    assert list(scene.directory.iterdir()) == []

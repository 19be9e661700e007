# SPDX-License-Identifier: Apache-2.0
"""What deploy/ has nodes run, as Debian's kubectl renders it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VARIANTS = ("base", "kubeadm", "unprivileged")  # that run agents
CLEANUP = "cleanup"
KUBECTL = ROOT / ".venv/kubectl/kubectl"

Object = dict[str, Any]


@cache
def rendered(variant: str) -> str:
    """Return what `kubectl kustomize` makes of a folder."""
    command = [str(KUBECTL), "kustomize", str(DEPLOY / variant)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def objects(variant: str = "base") -> dict[str, Object]:
    """Return the objects by kind and name; of generated names the hash is left out."""
    found = {}
    for each in yaml.safe_load_all(rendered(variant)):
        name = each["metadata"]["name"]
        if each["kind"] == "ConfigMap":
            name = name.rpartition("-")[0]
        found[f"{each['kind']}/{name}"] = each
    return found


def pod(variant: str = "base") -> Object:
    """Return the DaemonSet's pod."""
    spec: Object = objects(variant)["DaemonSet/pyproxy"]["spec"]["template"]["spec"]
    return spec


def container(variant: str = "base") -> Object:
    """Return the container of the agent."""
    (only,) = pod(variant)["containers"]
    found: Object = only
    return found

# SPDX-License-Identifier: Apache-2.0
"""kubectl, for what the tests do in a cluster that others have made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.manifests import Object

TIMEOUT_S = 120


class Kubectl:
    """Calls kubectl with one kubeconfig, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.namespace = namespace
        self._head = ["kubectl", "--kubeconfig", str(kubeconfig), "--namespace", namespace]

    def exec(self, pod: str, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs `argv` in a pod, with stdin."""
        return [*self._head, "exec", "-i", pod, "--", *map(str, argv)]

    def apply(self, *objects: Object) -> None:
        """Make these objects, or make them so."""
        self._call("apply", "-f", "-", given=_list(objects))

    def delete(self, *objects: Object) -> None:
        """Delete these objects; those that are gone are not missed."""
        self._call("delete", "--ignore-not-found", "-f", "-", given=_list(objects))

    def get(self, kind: str, name: str = "") -> Any:
        """Return an object, or all of a kind as a list."""
        found = json.loads(self._call("get", kind, *([name] if name else []), "-o", "json"))
        return found if name else found["items"]

    def _call(self, *arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            [*self._head, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def _list(objects: Sequence[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})

# SPDX-License-Identifier: Apache-2.0
"""kubectl as realcluster.py calls it, for a cluster of namespaces. Run as a script.

The kubeconfig is a JSON file that says where manifests go and how commands get into each pod:

    {"manifests": DIR, "nodes": [NODE...], "pods": {NAME: {"ips": [...], "command": [...]}}}

A Pod is running as soon as it is applied, if the lab has one of its name; a Service gets ClusterIPs
as an API server would give them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
MOUNTED_AT = "/scripts/"
FIRST_IP = 100


class Fake:
    """What one call sees; the state between calls is in a file beside the kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.lab = json.loads(kubeconfig.read_text("utf-8"))
        self._file = kubeconfig.with_suffix(".state")
        self.objects: dict[str, Any] = {}
        if self._file.exists():
            self.objects = json.loads(self._file.read_text("utf-8"))

    def apply(self, objects: list[Any]) -> None:
        """Take objects over."""
        for each in objects:
            key = _key(each)
            if each["kind"] == "Pod":
                each["status"] = self._status(each["metadata"]["name"])
            if each["kind"] == "Service":
                self._give_addresses(each, self.objects.get(key))
            self.objects[key] = each
            self._write(key, each)
        self._save()

    def delete(self, objects: list[Any]) -> None:
        """Forget objects; a namespace goes with all that is in it."""
        for each in objects:
            keys = list(self.objects) if each["kind"] == "Namespace" else [_key(each)]
            for key in keys:
                self.objects.pop(key, None)
                self._path(key).unlink(missing_ok=True)
        self._save()

    def get(self, kind: str, name: str) -> Any:
        """Return an object or a list, as `-o json` does."""
        if kind == "nodes":
            return {"items": self.lab["nodes"]}
        if name:
            return self.objects[f"{kind}/{name}"]
        return {"items": [v for k, v in self.objects.items() if f"{k.split('/')[0]}s" == kind]}

    def exec(self, pod: str, argv: list[str]) -> None:
        """Become the command, in the pod; never returns."""
        known = [each.replace(MOUNTED_AT, f"{SCRIPTS}/") for each in argv]
        if known[0] == "python3":
            known[0] = sys.executable
        command = [*self.lab["pods"][pod]["command"], *known]
        os.execvp(command[0], command)  # noqa: S606 - to be the command is the point

    def _status(self, name: str) -> Any:
        ips = [{"ip": each} for each in self.lab["pods"][name]["ips"]]
        return {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": ips}

    def _give_addresses(self, service: Any, before: Any) -> None:
        if "clusterIPs" in service["spec"]:
            return
        number = FIRST_IP + sum(key.startswith("service/") for key in self.objects)
        given = [f"fd00:10:96::{number:x}", f"10.96.0.{number}"]
        addresses = before["spec"]["clusterIPs"] if before else given
        families = ["IPv6" if ":" in each else "IPv4" for each in addresses]
        service["spec"] |= {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": families,
        }

    def _write(self, key: str, of: Any) -> None:
        """Give agents what they would watch."""
        if key.split("/", maxsplit=1)[0] not in ("service", "endpointslice"):
            return
        of["metadata"].setdefault("uid", f"uid-{key}")
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(json.dumps(of), "utf-8")
        fresh.replace(path)

    def _path(self, key: str) -> Path:
        return Path(self.lab["manifests"], f"{key.replace('/', '-')}.json")

    def _save(self) -> None:
        self._file.write_text(json.dumps(self.objects), "utf-8")


def _key(of: Any) -> str:
    return f"{of['kind'].lower()}/{of['metadata']['name']}"


def main() -> None:
    """Do what the arguments say: --kubeconfig FILE --namespace NAME VERB ..."""
    kubeconfig, _, _, verb, *rest = sys.argv[2:]
    fake = Fake(Path(kubeconfig))
    if verb == "exec":
        fake.exec(rest[1], rest[3:])
    elif verb == "get":
        name = "" if rest[1] == "-o" else rest[1]
        print(json.dumps(fake.get(rest[0], name)))
    else:
        objects = json.load(sys.stdin)["items"]
        {"apply": fake.apply, "delete": fake.delete}[verb](objects)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The scene in a cluster that others have made: what a lab's scene writes to files is applied."""

from __future__ import annotations

import copy
from typing import cast

from tests.e2e.scene import TCP_PORT, App, Scene
from tests.lab.cluster import Cluster
from tests.lab.manifests import Object, port
from tests.lab.realcluster import RealCluster

PATIENCE_S = 30.0


class RealScene(Scene):
    """Applications in the tests' namespace. ClusterIPs are those that the API server gives."""

    def __init__(self, cluster: RealCluster, translation: str) -> None:
        self._kubectl = cluster.kubectl
        self._files: dict[str, list[Object]] = {}
        self._services: list[Object] = []
        super().__init__(cast("Cluster", cluster), [], translation)
        self.patience_s = PATIENCE_S

    def app(self, name: str) -> App:
        """Return an application, whose Service is there already to have its addresses."""
        self._apps += 1
        name = f"{name}-{self._apps}"
        spec = {"ipFamilyPolicy": "RequireDualStack", "ports": [port(TCP_PORT, name="web")]}
        made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        self._kubectl.apply(made)
        self._services.append(made)
        given = sorted(self._kubectl.get("service", name)["spec"]["clusterIPs"], key=_is_ipv6)
        return App(name, *given)

    def put(self, filename: str, *objects: Object) -> None:
        """Apply what a file would hold, and delete what it holds no more."""
        wanted = [self._fitted(each) for each in objects]
        names = {_name(each) for each in wanted}
        gone = [each for each in self._files.get(filename, ()) if _name(each) not in names]
        self._kubectl.apply(*wanted)
        self._files[filename] = wanted
        if gone:
            self._kubectl.delete(*gone)

    def drop(self, filename: str) -> None:
        """Delete what a file would have held."""
        self._kubectl.delete(*self._files.pop(filename))

    def clear(self) -> None:
        """Delete everything that was applied."""
        for filename in list(self._files):
            self.drop(filename)
        if self._services:
            self._kubectl.delete(*self._services)
            self._services.clear()

    def _fitted(self, of: Object) -> Object:
        """Return an object as an API server takes it from a client."""
        fitted = copy.deepcopy(of)
        for field in ("uid", "creationTimestamp"):
            fitted["metadata"].pop(field, None)
        fitted["metadata"]["namespace"] = self._kubectl.namespace
        if fitted["kind"] == "Service":
            single = len(fitted["spec"]["clusterIPs"]) == 1
            fitted["spec"]["ipFamilyPolicy"] = "SingleStack" if single else "RequireDualStack"
        return fitted


def _name(of: Object) -> tuple[str, str]:
    return of["kind"], of["metadata"]["name"]


def _is_ipv6(address: str) -> bool:
    return ":" in address

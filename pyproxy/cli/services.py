# SPDX-License-Identifier: Apache-2.0
"""pyproxy services."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from pyproxy.cli.show import print_json, print_lines, print_table
from pyproxy.errors import KernelError, NothingLoadedError
from pyproxy.kernel import inspect
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.model import address_text
from pyproxy.sync.api import SlotBackend, Snapshot
from pyproxy.tables import BackendFlag, FrontendKey, Kind

_TYPES = {
    Kind.CLUSTER_IP: "ClusterIP",
    Kind.EXTERNAL_IP: "ExternalIP",
    Kind.LOAD_BALANCER: "LoadBalancer",
    Kind.NODE_PORT: "NodePort",
}


def show(bpffs_root: Path, *, as_json: bool) -> int:
    """Print frontends and backends; return 0, or 3 if nothing is loaded."""
    services: list[dict[str, Any]] = []
    try:
        for pins in inspect.loaded_families(bpffs_root):
            datapath = KernelDatapath(pins, write=False)
            services += _services(datapath.read())
            datapath.close()
    except (KernelError, NothingLoadedError) as error:
        print_json("services", {"services": []}) if as_json else print_lines([f"unknown: {error}"])
        return 3
    services.sort(key=lambda s: (s["namespace"], s["name"], s["port"], s["protocol"]))
    if as_json:
        print_json("services", {"services": services})
    else:
        _table(services)
    return 0


def _services(snapshot: Snapshot) -> list[dict[str, Any]]:
    frontends: defaultdict[int, list[tuple[FrontendKey, Kind]]] = defaultdict(list)
    for key, value in snapshot.frontends.items():
        frontends[value.service].append((key, value.kind))
    found = []
    for service, named in snapshot.names.items():
        run = snapshot.runs.get(service)
        found.append({
            "namespace": named.name.namespace,
            "name": named.name.name,
            "port": named.name.port,
            "protocol": named.name.protocol.name,
            "frontends": [_frontend(*each) for each in sorted(frontends[service])],
            "backends": [_backend(b, snapshot.nodes) for b in run.backends] if run else [],
        })  # fmt: skip
    return found


def _frontend(key: FrontendKey, kind: Kind) -> dict[str, Any]:
    return {"type": _TYPES[kind], "address": address_text(key.address), "port": key.port}


def _backend(backend: SlotBackend, nodes: dict[int, str]) -> dict[str, Any]:
    flags = BackendFlag(backend.flags)
    return {
        "address": address_text(backend.address),
        "port": backend.port,
        "node": nodes.get(backend.node, ""),
        "local": BackendFlag.LOCAL in flags,
        "state": _state(flags),
    }


def _state(flags: BackendFlag) -> str:
    if BackendFlag.READY in flags:
        return "ready"
    return "terminating" if BackendFlag.TERMINATING in flags else "serving"


def _table(services: list[dict[str, Any]]) -> None:
    rows = []
    for each in services:
        port = f":{each['port']}" if each["port"] else ""
        name = f"{each['namespace']}/{each['name']}{port}"
        dialled = [_endpoint(f) for f in each["frontends"]]
        answers = [_answer(b) for b in each["backends"]] or ["none"]
        rows.append((name, each["protocol"], "\n".join(dialled), "\n".join(answers)))
    print_table("Services", ("service port", "protocol", "frontends", "backends"), rows)


def _endpoint(each: dict[str, Any]) -> str:
    address = f"[{each['address']}]" if ":" in each["address"] else each["address"]
    return f"{address}:{each['port']}"


def _answer(backend: dict[str, Any]) -> str:
    where = "local" if backend["local"] else backend["node"] or "no node"
    return f"{_endpoint(backend)} {where} {backend['state']}"

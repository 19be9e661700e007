# SPDX-License-Identifier: Apache-2.0
"""What one agent runs with, settled once from flags and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyproxy.kube.proxylogging import LogSettings
from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTable, Conntrack, SocketTranslation


class RunConfig(NamedTuple):
    """The settings of one agent. Addresses to bind are host and port, None for no server.

    Objects come from `manifests`, else from the API server that `kubeconfig` names, else from
    the one of the cluster in whose pod the agent runs. Every `sync_period_s` the kernel is looked
    at, for what others have changed there.

    `master` is the API server's URL, "" for the one that credentials name. `conntrack` and
    `oom_score_adj` are what the host is to be given at the start (parity A17). `proxy_mode` is
    kube-proxy's own name of the mode; `proxy_mode_answer` is what /proxyMode says instead, "" for
    nothing else. `service_metrics`: a scrape gets counters of every service. With
    `bind_address_hard_fail` the agent ends where a server cannot bind (A11, A12.7); with
    `remove_kube_proxy_rules` it removes what kube-proxy has left, once its own programs serve.
    With `take_over` an agent that finds another one here waits for its end, instead of refusing to
    run. At `probe_socket` this very agent says how it is, None for nowhere.
    `files` are the configuration's own, to be watched; `configuration` is the effective
    KubeProxyConfiguration (kube.proxydocument).
    """

    manifests: Path | None
    kubeconfig: Path | None
    options: Options
    healthz_bind_address: tuple[str, int] | None
    metrics_bind_address: tuple[str, int] | None
    cgroup_root: Path
    bpffs_root: Path
    run_dir: Path
    cache_dir: Path
    devices: tuple[str, ...]
    socket_translation: SocketTranslation = SocketTranslation.ALL
    connections: ConnectionTable = ConnectionTable()
    sync_period_s: float = 30.0
    master: str = ""
    conntrack: Conntrack = Conntrack()
    oom_score_adj: int = -999
    remove_kube_proxy_rules: bool = True
    proxy_mode: str = "iptables"
    proxy_mode_answer: str = ""
    service_metrics: bool = True
    bind_address_hard_fail: bool = False
    take_over: bool = False
    probe_socket: Path | None = None
    logging: LogSettings = LogSettings()
    files: tuple[Path, ...] = ()
    configuration: Mapping[str, Any] = MappingProxyType({})


class Chosen(NamedTuple):
    """What flags and files come to; `remarks` are for the log, one line each."""

    config: RunConfig
    remarks: tuple[str, ...]

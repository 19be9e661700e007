# SPDX-License-Identifier: Apache-2.0
"""What one agent runs with, settled once from flags and files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTable, Conntrack, SocketTranslation


class RunConfig(NamedTuple):
    """The settings of one agent. Addresses to bind are host and port, None for no server.

    Objects come from `manifests`, else from the API server that `kubeconfig` names, else from
    the one of the cluster in whose pod the agent runs. Every `sync_period_s` the kernel is looked
    at, for what others have changed there. `conntrack` and `oom_score_adj` are what the host is to
    be given at the start (parity A17). With `remove_kube_proxy_rules` the agent removes what
    kube-proxy has left, once its own programs serve.
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
    conntrack: Conntrack = Conntrack()
    oom_score_adj: int = -999
    remove_kube_proxy_rules: bool = True

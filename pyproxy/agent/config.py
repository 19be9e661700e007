# SPDX-License-Identifier: Apache-2.0
"""What one agent runs with, settled once from flags and files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTable, SocketTranslation


class RunConfig(NamedTuple):
    """The settings of one agent. Addresses to bind are host and port, None for no server.

    Objects come from `manifests`, else from the API server that `kubeconfig` names, else from
    the one of the cluster in whose pod the agent runs. Every `sync_period_s` the kernel is looked
    at, for what others have changed there. `bind_address_hard_fail`: an address that cannot be had
    ends the agent.
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
    bind_address_hard_fail: bool = False

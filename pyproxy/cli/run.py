# SPDX-License-Identifier: Apache-2.0
"""pyproxy run: flags and files into one RunConfig."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

from pyproxy.agent.config import RunConfig
from pyproxy.agent.main import run
from pyproxy.cli.options import BPFFS_ROOT, CACHE_DIR, RUN_DIR
from pyproxy.errors import ConfigError
from pyproxy.kernel import cgroup
from pyproxy.kube.proxyconfig import (
    HEALTHZ_PORT,
    METRICS_PORT,
    BindAddress,
    ProxyConfig,
    node_name,
    parse_bind_address,
    parse_cluster_cidrs,
    read_config,
)
from pyproxy.kube.proxyoptions import parse_node_port_addresses
from pyproxy.kube.pyproxyconfig import PyproxyConfig, read_pyproxy_config
from pyproxy.model import Prefix
from pyproxy.plan.options import DetectLocalMode, Options
from pyproxy.tables import ConnectionTable, SocketTranslation

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"

# kube-proxy ignores these flags when it has a file (parity A18.1, A18.10)
RULED_BY_FILE = (
    "cluster_cidr", "nodeport_addresses", "healthz_bind_address", "metrics_bind_address",
)  # fmt: skip


def run_agent(flags: dict[str, Any]) -> None:
    """Run an agent by flags as click gives them, until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    run(config_from(flags))


def config_from(flags: dict[str, Any]) -> RunConfig:
    """Return what the agent runs with; raises ConfigError for what makes no sense.

    `flags` has all of the command's, None for those not given. --config rules over kube-proxy's
    flags as it does there; our own flags win over --pyproxy-config.
    """
    if flags["manifests"] and flags["kubeconfig"]:
        raise ConfigError("there are two sources of objects", "give --manifests or --kubeconfig")
    file: Path | None = flags["config"]
    config = _from_file(file, flags) if file else ProxyConfig()
    own = _own_file(flags["pyproxy_config"])
    flagged = {} if file else flags
    return RunConfig(
        manifests=flags["manifests"],
        kubeconfig=_kubeconfig(flags, config),
        options=_options(flags, flagged, config, own),
        healthz_bind_address=_bind(
            flagged.get("healthz_bind_address"), HEALTHZ_PORT, config.healthz_bind_address
        ),
        metrics_bind_address=_bind(
            flagged.get("metrics_bind_address"), METRICS_PORT, config.metrics_bind_address
        ),
        cgroup_root=flags["cgroup_root"] or own.cgroup_root or cgroup.find_root(),
        bpffs_root=flags["bpffs_root"] or own.bpffs_root or BPFFS_ROOT,
        run_dir=flags["run_dir"] or own.run_dir or RUN_DIR,
        cache_dir=flags["cache_dir"] or own.cache_dir or CACHE_DIR,
        devices=_devices(flags["devices"], own),
        socket_translation=_socket_translation(flags["socket_translation"], own),
        connections=_connections(config, own),
        sync_period_s=config.sync_period_s,
    )


def _options(
    flags: dict[str, Any], flagged: dict[str, Any], config: ProxyConfig, own: PyproxyConfig
) -> Options:
    cidrs = _cidrs(flagged.get("cluster_cidr"), config)
    detects = config.options.detect_local_mode
    options = config.options._replace(
        node_name=_node_name(flags["hostname_override"], config),
        local_cidrs=cidrs if detects is DetectLocalMode.CLUSTER_CIDR else (),
        bind_address=config.bind_address if any(config.bind_address) else b"",
        fast_path=own.fast_path,
        forward_accept=own.forward_accept,
        hide_clients=own.hide_clients,
        ipv6_localhost_node_ports=own.ipv6_localhost_node_ports,
        protect_node_ports=own.protect_node_ports,
        same_uplink=own.same_uplink,
    )
    wanted = flagged.get("nodeport_addresses")
    if wanted is None:
        return options
    try:
        cidrs, primary = parse_node_port_addresses(_list(wanted), options.mode)
    except ValueError as error:
        raise ConfigError(f"--nodeport-addresses: {error}", "give CIDRs, or primary") from error
    return options._replace(node_port_addresses=cidrs, node_ports_on_primary=primary)


def _from_file(path: Path, flags: dict[str, Any]) -> ProxyConfig:
    for name in RULED_BY_FILE:
        if flags[name] is not None:
            log.warning("--%s is ignored: --config rules", name.replace("_", "-"))
    config = read_config(path)
    _warn(path, config.warnings)
    return config


def _own_file(path: Path | None) -> PyproxyConfig:
    if path is None:
        return PyproxyConfig()
    own = read_pyproxy_config(path)
    _warn(path, own.warnings)
    return own


def _warn(path: Path, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        log.warning("%s: %s", path, warning)


def _kubeconfig(flags: dict[str, Any], config: ProxyConfig) -> Path | None:
    """Return how to reach the API server; a flag that names a source wins over the file."""
    if flags["manifests"]:
        return None
    return flags["kubeconfig"] or config.kubeconfig


def _cidrs(flag: str | None, config: ProxyConfig) -> tuple[Prefix, ...]:
    if not flag:
        return config.cluster_cidrs
    try:
        return parse_cluster_cidrs(flag)
    except ValueError as error:
        raise ConfigError(f"--cluster-cidr: {error}", "give one CIDR, or one a family") from error


def _bind(flag: str | None, port: int, otherwise: BindAddress) -> BindAddress | None:
    """Return where to listen; an empty flag means nowhere (parity A12.7, A19.10)."""
    if flag is None:
        return otherwise
    try:
        return parse_bind_address(flag, port) if flag else None
    except ValueError as error:
        raise ConfigError(f"{flag!r} is no address to bind: {error}", "give IP:PORT") from error


def _node_name(override: str | None, config: ProxyConfig) -> str:
    """Return the node's name, trimmed and in lower case (parity A16.1, A18.10)."""
    if override is None:
        return config.node_name or node_name(socket.gethostname())
    if not override.strip():
        raise ConfigError("--hostname-override is blank", "leave it out or give the Node's name")
    return node_name(override)


def _devices(flag: str | None, own: PyproxyConfig) -> tuple[str, ...]:
    """Return shell patterns of devices; an empty flag means all devices."""
    if flag is None:
        return own.devices
    return tuple(_list(flag))


def _list(text: str) -> list[str]:
    """Return what stands between commas."""
    return list(filter(None, map(str.strip, text.split(","))))


def _socket_translation(flag: str | None, own: PyproxyConfig) -> SocketTranslation:
    return own.socket_translation if flag is None else SocketTranslation(flag)


def _connections(config: ProxyConfig, own: PyproxyConfig) -> ConnectionTable:
    """Return the connection table: kube-proxy's timeouts from its file, ours from our own."""
    timeouts = config.timeouts._replace(tcp_opening=own.tcp_opening_s, tcp_closed=own.tcp_closed_s)
    return ConnectionTable(own.max_entries, timeouts, own.source_ports)

# SPDX-License-Identifier: Apache-2.0
"""pyproxy run: flags and files into one RunConfig."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyproxy.agent import logs
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.main import prepare, run
from pyproxy.cli.options import BPFFS_ROOT, CACHE_DIR, RUN_DIR
from pyproxy.errors import ConfigError, PyproxyError
from pyproxy.kernel import cgroup
from pyproxy.kube.proxyconfig import ProxyConfig, node_name
from pyproxy.kube.proxydocument import to_yaml
from pyproxy.kube.proxyflags import FLAGS, read_settings
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.kube.pyproxyconfig import PyproxyConfig, read_pyproxy_config
from pyproxy.plan.options import DetectLocalMode, Options, node_ips
from pyproxy.tables import ConnectionTable, SocketTranslation

log = logging.getLogger(__name__)


def run_agent(flags: dict[str, Any]) -> None:
    """Run an agent by flags as click gives them, until it is told to stop.

    With --write-config-to or --init-only it ends before that (parity A18.1, A17.5).
    """
    logs.configure(LogSettings())
    if flags.get("write_config_to"):
        _write_config(flags, flags["write_config_to"])
        return
    chosen = choose(flags)
    logs.configure(chosen.config.logging)
    if flags.get("init_only"):
        prepare(chosen.config)
    else:
        run(chosen, functools.partial(choose, flags))


def choose(flags: dict[str, Any]) -> Chosen:
    """Return what the agent runs with; raises ConfigError for what makes no sense.

    `flags` are the command's, None where not given. --config rules over kube-proxy's as there;
    our own win over --pyproxy-config.
    """
    if flags["manifests"] and flags["kubeconfig"]:
        raise ConfigError("there are two sources of objects", "give --manifests or --kubeconfig")
    settings = read_settings(flags["config"], _proxy_flags(flags))
    config, own = settings.config, _own_file(flags["pyproxy_config"])
    made = RunConfig(
        manifests=flags["manifests"],
        kubeconfig=_kubeconfig(flags, config),
        options=_options(config, own),
        healthz_bind_address=config.healthz_bind_address,
        metrics_bind_address=config.metrics_bind_address,
        **_places(flags, own),
        devices=_devices(flags["devices"], own),
        socket_translation=_socket_translation(flags["socket_translation"], own),
        connections=_connections(config, own),
        sync_period_s=config.sync_period_s,
        master=flags.get("master") or "",
        conntrack=config.conntrack,
        oom_score_adj=config.oom_score_adj,
        remove_kube_proxy_rules=own.remove_kube_proxy_rules,
        proxy_mode=config.proxy_mode,
        proxy_mode_answer=own.proxy_mode_answer,
        service_metrics=own.service_metrics,
        bind_address_hard_fail=config.bind_address_hard_fail,
        take_over=bool(flags.get("take_over")),
        probe_socket=flags.get("probe_socket"),
        logging=config.logging,
        files=tuple(filter(None, (flags["config"], flags["pyproxy_config"]))),
        configuration=settings.document,
    )
    warnings = (f"{flags['pyproxy_config']}: {each}" for each in own.warnings)
    return Chosen(made, (*settings.remarks, *warnings))


def _write_config(flags: dict[str, Any], path: Path) -> None:
    document = read_settings(flags["config"], _proxy_flags(flags)).document
    try:
        path.write_text(to_yaml(document), encoding="utf-8")
    except OSError as error:
        raise PyproxyError(
            f"{path} cannot be written: {error.strerror}", "give --write-config-to another file"
        ) from error
    log.info("wrote the configuration to %s", path)


def _proxy_flags(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return kube-proxy's flags that are given, by name."""
    override = flags["hostname_override"]
    if override is not None and not override.strip():
        raise ConfigError("--hostname-override is blank", "leave it out or give the Node's name")
    by_name = {name: flags.get(name.replace("-", "_")) for name in FLAGS}
    return {name: text for name, text in by_name.items() if text is not None}


def _options(config: ProxyConfig, own: PyproxyConfig) -> Options:
    detects = config.options.detect_local_mode
    bind = config.bind_address if any(config.bind_address) else b""
    return config.options._replace(
        # trimmed and in lower case (parity A16.1, A18.10)
        node_name=config.node_name or node_name(socket.gethostname()),
        bind_address=bind,
        node_ips=node_ips(bind, ()),
        local_cidrs=config.cluster_cidrs if detects is DetectLocalMode.CLUSTER_CIDR else (),
        fast_path=own.fast_path,
        forward_accept=own.forward_accept,
        hide_clients=own.hide_clients,
        ipv6_localhost_node_ports=own.ipv6_localhost_node_ports,
        protect_node_ports=own.protect_node_ports,
        same_uplink=own.same_uplink,
    )


def _own_file(path: Path | None) -> PyproxyConfig:
    return read_pyproxy_config(path) if path else PyproxyConfig()


def _kubeconfig(flags: dict[str, Any], config: ProxyConfig) -> Path | None:
    """Return how to reach the API server; a flag that names a source wins over the file."""
    if flags["manifests"]:
        return None
    return flags["kubeconfig"] or config.kubeconfig


def _places(flags: dict[str, Any], own: PyproxyConfig) -> dict[str, Path]:
    return {
        "cgroup_root": flags["cgroup_root"] or own.cgroup_root or cgroup.find_root(),
        "bpffs_root": flags["bpffs_root"] or own.bpffs_root or BPFFS_ROOT,
        "run_dir": flags["run_dir"] or own.run_dir or RUN_DIR,
        "cache_dir": flags["cache_dir"] or own.cache_dir or CACHE_DIR,
    }


def _devices(flag: str | None, own: PyproxyConfig) -> tuple[str, ...]:
    """Return shell patterns of devices; an empty flag means all devices."""
    if flag is None:
        return own.devices
    return tuple(filter(None, map(str.strip, flag.split(","))))


def _socket_translation(flag: str | None, own: PyproxyConfig) -> SocketTranslation:
    return own.socket_translation if flag is None else SocketTranslation(flag)


def _connections(config: ProxyConfig, own: PyproxyConfig) -> ConnectionTable:
    """Return the connection table: kube-proxy's timeouts from its file, ours from our own."""
    timeouts = config.timeouts._replace(tcp_opening=own.tcp_opening_s, tcp_closed=own.tcp_closed_s)
    return ConnectionTable(own.max_entries, timeouts, own.source_ports)

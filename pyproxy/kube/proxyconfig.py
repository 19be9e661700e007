# SPDX-License-Identifier: Apache-2.0
"""`--config FILE`: kube-proxy's own KubeProxyConfiguration v1alpha1, YAML or JSON.

What is wrong in it, unknown or given twice is kube.configwalk's matter (parity A19.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.configfields import FIELDS
from pyproxy.kube.configtypes import LONGEST_TIMEOUT_S
from pyproxy.kube.configwalk import Found, Schema, Walk, read_config_file, walk
from pyproxy.kube.durations import whole_seconds
from pyproxy.kube.proxydocument import document
from pyproxy.kube.proxylogging import LogSettings, log_settings
from pyproxy.kube.proxyoptions import proxy_options
from pyproxy.kube.proxyperiods import block_of, sync_period_s
from pyproxy.kube.proxyremarks import Addresses, remarks
from pyproxy.model import Address, Prefix, address_text, family_of
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import ConnectionTimeouts, Conntrack

SCHEMA = Schema("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", FIELDS)
HEALTHZ_PORT = 10256
METRICS_PORT = 10249
SYNC_PERIOD_S = 30.0  # parity A19.6


class BindAddress(NamedTuple):
    """Where to listen: an IP address as text without brackets, and a port."""

    host: str
    port: int


class ProxyConfig(NamedTuple):
    """What is read of the configuration, with kube-proxy's defaults (A19.2, A12.1, A13.1).

    `node_name` is "" where the file has no hostnameOverride. `cluster_cidrs` has at most one
    prefix a family. `kubeconfig` is where the API server is found if no flag says so, None for
    in-cluster. `options` has what the file says of traffic, but for name and CIDRs. Of `timeouts` a
    file gives those that kube-proxy sets in the kernel (A17.2); `conntrack` is what that is given
    itself. `proxy_mode` is the mode by kube-proxy's name. An address to listen on is None where a
    flag says nowhere. `sync_period_s` is how often the
    kernel is looked at: what others have changed there is restored (A15.8). `warnings`
    name the fields that were passed over or shortened, for the log.
    """

    node_name: str = ""
    bind_address: Address = bytes(4)
    cluster_cidrs: tuple[Prefix, ...] = ()
    healthz_bind_address: BindAddress | None = BindAddress("0.0.0.0", HEALTHZ_PORT)
    metrics_bind_address: BindAddress | None = BindAddress("127.0.0.1", METRICS_PORT)
    kubeconfig: Path | None = None
    options: Options = Options("")
    timeouts: ConnectionTimeouts = ConnectionTimeouts()
    conntrack: Conntrack = Conntrack()
    oom_score_adj: int = -999
    proxy_mode: str = Mode.IPTABLES.value
    bind_address_hard_fail: bool = False
    logging: LogSettings = LogSettings()
    sync_period_s: float = SYNC_PERIOD_S
    warnings: tuple[str, ...] = ()


class Settings(NamedTuple):
    """A configuration, its effective form as a v1alpha1 object, and what to tell the operator."""

    config: ProxyConfig
    document: Mapping[str, Any]
    remarks: tuple[str, ...]


def read_config(path: Path) -> ProxyConfig:
    """Return a file's configuration.

    Raises ConfigError if it cannot be read, BadFileError with everything that is wrong in it.
    """
    return read_config_file(path, "--config", parse_config)


def parse_config(text: bytes) -> ProxyConfig:
    """Return the configuration of a YAML or JSON text. Raises BadFileError."""
    return settle(walk(text, SCHEMA)).config


def examine(path: Path) -> Found:
    """Return what is wrong with a file, unknown fields and duplicates included, and what is noted.

    Raises ConfigError if it cannot be read or is no mapping.
    """
    return read_config_file(path, "--config", _examined)


def _examined(text: bytes) -> Found:
    found = walk(text, SCHEMA)
    config = _validated(found)
    errors = [*found.errors, *found.oddities]
    addresses = Addresses(config.bind_address, config.cluster_cidrs)
    said = () if errors else remarks(found, config.options, addresses)
    return Found(errors, [*found.warnings, *said])


def settle(found: Walk) -> Settings:
    """Return what fields come to. Raises BadFileError with everything that is wrong."""
    config = _validated(found)
    found.refuse_errors()
    addresses = {
        "healthzBindAddress": _bind_text(config.healthz_bind_address),
        "metricsBindAddress": _bind_text(config.metrics_bind_address),
        "hostnameOverride": config.node_name,
    }
    said = remarks(found, config.options, Addresses(config.bind_address, config.cluster_cidrs))
    return Settings(config, document(found, SCHEMA, addresses), said)


def _bind_text(address: BindAddress | None) -> str:
    if address is None:
        return ""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def node_name(text: str) -> str:
    """Return a host name as the name of a Node: trimmed and in lower case (A16.1)."""
    return text.strip().lower()


def parse_cluster_cidrs(text: str) -> tuple[Prefix, ...]:
    """Return the CIDRs of clusterCIDR: none, one, or one of each family. Raises ValueError."""
    if not text:
        return ()
    found = tuple(parse_prefix(one) for one in text.split(","))
    if len(found) > 2:
        raise ValueError(f"{text!r} has more than two CIDRs")
    if len({family_of(one.address) for one in found}) < len(found):
        raise ValueError(f"{text!r} has two CIDRs of one family")
    return found


def parse_bind_address(text: str, default_port: int) -> BindAddress:
    """Return where to listen from "IP:port", "[IP]:port" or an IP alone (A19.10).

    Raises ValueError.
    """
    host, port = _split_host_port(text, default_port)
    try:
        host = address_text(parse_address(host))
    except ValueError:
        raise ValueError(f"{text!r} is no IP:port") from None
    if not 1 <= port <= 65535:
        raise ValueError(f"{text!r} has a port that is not 1 to 65535")
    return BindAddress(host, port)


def _split_host_port(text: str, default_port: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not host:
        return text, default_port
    return (host, int(port)) if port.isascii() and port.isdecimal() else (text, default_port)


def _validated(found: Walk) -> ProxyConfig:
    bind = found.parsed("bindAddress", parse_address, bytes(4))
    healthz, metrics = ("0.0.0.0", "127.0.0.1") if len(bind) == 4 else ("::", "::1")
    timeouts = _timeouts(found)
    return ProxyConfig(
        node_name=node_name(found.text("hostnameOverride")),
        bind_address=bind,
        cluster_cidrs=found.parsed("clusterCIDR", parse_cluster_cidrs, ()),
        healthz_bind_address=_listen(found, "healthzBindAddress", healthz, HEALTHZ_PORT),
        metrics_bind_address=_listen(found, "metricsBindAddress", metrics, METRICS_PORT),
        kubeconfig=found.parsed("clientConnection.kubeconfig", Path, None),
        options=proxy_options(found),
        timeouts=timeouts,
        conntrack=_conntrack(found),
        oom_score_adj=found.values.get("oomScoreAdj", ProxyConfig().oom_score_adj),
        proxy_mode=block_of(found),
        bind_address_hard_fail=found.values.get("bindAddressHardFail") is True,
        logging=log_settings(found),
        sync_period_s=sync_period_s(found),
        warnings=(*found.oddities, *found.warnings),
    )


def _listen(found: Walk, path: str, host: str, port: int) -> BindAddress | None:
    """Return where to listen: empty means nowhere for a flag only (A12.7, A19.10)."""
    if path in found.names and path in found.values and not found.text(path):
        return None
    default = BindAddress(host, port)
    return found.parsed(path, lambda text: parse_bind_address(text, port), default)


def _conntrack(found: Walk) -> Conntrack:
    """Return what the kernel's connection tracking is to have; null means the default (A19.4)."""
    default = Conntrack()
    numbers = {
        name: found.values.get(f"conntrack.{path}", getattr(default, name))
        for name, path in (("max_per_core", "maxPerCore"), ("min", "min"))
    }
    timeouts = {
        f"{name}_timeout_s": found.parsed(
            f"conntrack.{path}Timeout", whole_seconds, getattr(default, f"{name}_timeout_s")
        )
        for name, path in (
            ("tcp_established", "tcpEstablished"),
            ("tcp_close_wait", "tcpCloseWait"),
            ("udp", "udp"),
            ("udp_stream", "udpStream"),
        )
    }
    liberal = found.values.get("conntrack.tcpBeLiberal") is True
    return Conntrack(tcp_be_liberal=liberal, **numbers, **timeouts)


def _timeouts(found: Walk) -> ConnectionTimeouts:
    """Return how long connections are remembered; what has to be shortened is warned of."""
    default = ConnectionTimeouts()
    return ConnectionTimeouts(
        tcp_established=_timeout(found, "tcpEstablishedTimeout", default.tcp_established),
        tcp_close_wait=_timeout(found, "tcpCloseWaitTimeout", default.tcp_close_wait),
        udp=_timeout(found, "udpTimeout", default.udp),
        udp_stream=_timeout(found, "udpStreamTimeout", default.udp_stream),
    )


def _timeout(found: Walk, name: str, default: int) -> int:
    """Return a timeout in seconds; 0 and null leave it as it is (A19.4)."""
    path = f"conntrack.{name}"
    wanted = found.parsed(path, whole_seconds, 0) or default
    if wanted <= LONGEST_TIMEOUT_S:
        return wanted
    # kube-proxy takes it, so it is no error here
    found.warnings.append(f"{path} is shortened to {LONGEST_TIMEOUT_S // 3600}h, the longest")
    return LONGEST_TIMEOUT_S

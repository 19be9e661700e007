# SPDX-License-Identifier: Apache-2.0
"""`--config FILE`: kube-proxy's own KubeProxyConfiguration v1alpha1, YAML or JSON.

What is wrong in it, unknown or given twice is kube.configwalk's matter (parity A19.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.configfields import FIELDS
from pyproxy.kube.configtypes import LONGEST_TIMEOUT_S
from pyproxy.kube.configwalk import Schema, Walk, read_config_file, walk
from pyproxy.kube.durations import parse_duration, whole_seconds
from pyproxy.kube.proxyoptions import proxy_options
from pyproxy.model import Address, Prefix, address_text, family_of
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import ConnectionTimeouts

SCHEMA = Schema("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", FIELDS)
HEALTHZ_PORT = 10256
METRICS_PORT = 10249
SYNC_PERIOD_S = 30.0  # parity A19.6
SHORTEST_PERIOD_S = 1.0

_CONNTRACK_SIZE = ("conntrack.maxPerCore", "conntrack.min")


class BindAddress(NamedTuple):
    """Where to listen: an IP address as text without brackets, and a port."""

    host: str
    port: int


class ProxyConfig(NamedTuple):
    """What is read of the configuration, with kube-proxy's defaults (A19.2, A12.1, A13.1).

    `node_name` is "" where the file has no hostnameOverride. `cluster_cidrs` has at most one
    prefix a family. `kubeconfig` is where the API server is found if no flag says so, None for
    in-cluster. `options` has what the file says of traffic, but for name and CIDRs. Of `timeouts` a
    file gives those that kube-proxy sets in the kernel (A17.2). `sync_period_s` is how often the
    kernel is looked at: what others have changed there is restored (A15.8).
    `bind_address_hard_fail`: who cannot have an address that servers listen on ends (A12.7).
    `warnings` name the fields that were passed over, for the log.
    """

    node_name: str = ""
    bind_address: Address = bytes(4)
    cluster_cidrs: tuple[Prefix, ...] = ()
    healthz_bind_address: BindAddress = BindAddress("0.0.0.0", HEALTHZ_PORT)
    metrics_bind_address: BindAddress = BindAddress("127.0.0.1", METRICS_PORT)
    kubeconfig: Path | None = None
    options: Options = Options("")
    timeouts: ConnectionTimeouts = ConnectionTimeouts()
    sync_period_s: float = SYNC_PERIOD_S
    bind_address_hard_fail: bool = False
    warnings: tuple[str, ...] = ()


def read_config(path: Path) -> ProxyConfig:
    """Return a file's configuration.

    Raises ConfigError if it cannot be read, BadFileError with everything that is wrong in it.
    """
    return read_config_file(path, "--config", parse_config)


def parse_config(text: bytes) -> ProxyConfig:
    """Return the configuration of a YAML or JSON text. Raises BadFileError."""
    found = walk(text, SCHEMA)
    config = _validated(found)
    found.refuse_errors()
    return config


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
        healthz_bind_address=found.parsed(
            "healthzBindAddress",
            lambda text: parse_bind_address(text, HEALTHZ_PORT),
            BindAddress(healthz, HEALTHZ_PORT),
        ),
        metrics_bind_address=found.parsed(
            "metricsBindAddress",
            lambda text: parse_bind_address(text, METRICS_PORT),
            BindAddress(metrics, METRICS_PORT),
        ),
        kubeconfig=found.parsed("clientConnection.kubeconfig", Path, None),
        options=proxy_options(found),
        timeouts=timeouts,
        sync_period_s=found.parsed(
            f"{found.text('mode') or Mode.IPTABLES.value}.syncPeriod", _parse_period, SYNC_PERIOD_S
        ),
        bind_address_hard_fail=found.values.get("bindAddressHardFail") is True,
        warnings=(*found.warnings, *_without_meaning(found)),
    )


def _parse_period(text: str) -> float:
    """Return a syncPeriod in seconds; the shortest are too short for us. Raises ValueError."""
    found = parse_duration(text) / 1e9
    if found <= 0:
        raise ValueError(f"{text!r} must be more than 0s")
    return max(found, SHORTEST_PERIOD_S)


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


def _without_meaning(found: Walk) -> Iterator[str]:
    """Name what would size the kernel's table; maxPerCore 0 asks to leave it alone (A17.1)."""
    given = [path for path in _CONNTRACK_SIZE if path in found.values]
    if given and found.values.get(_CONNTRACK_SIZE[0]) != 0:
        yield (
            f"{' and '.join(given)} would size the kernel's connection tracking, which pyproxy"
            " does not use: its own table has connectionTable.maxEntries of --pyproxy-config"
        )

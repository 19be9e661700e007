# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's command line: every flag, and the fields of KubeProxyConfiguration that it sets.

Source: AddFlags of kube-proxy's options, 1.30 to 1.36 (parity A18). What only Windows has is
not here. Without --config flags are all there is; beside it a few count (A18.10).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyproxy.errors import ConfigError
from pyproxy.kube.configfields import FIELDS
from pyproxy.kube.configtypes import Block
from pyproxy.kube.configwalk import BadFileError, Walk, read_config_file, walk
from pyproxy.kube.proxyconfig import (
    HEALTHZ_PORT,
    METRICS_PORT,
    SCHEMA,
    Settings,
    parse_bind_address,
    settle,
)

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class ProxyFlag(NamedTuple):
    """A flag of kube-proxy's by its name: which fields it sets, how its text is read.

    `in_vain` is why it has no meaning here where it sets no field.
    """

    parse: Callable[[str], Any]
    paths: tuple[str, ...]
    help: str
    in_vain: str = ""


def _boolean(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return text in _TRUE


def _words(text: str) -> list[str]:
    return list(filter(None, map(str.strip, text.split(","))))


def _pairs(text: str) -> list[tuple[str, str]]:
    """Return what stands in NAME=VALUE,..; raises ValueError."""
    cut = [word.partition("=") for word in _words(text)]
    for name, equals, value in cut:
        if not (name and equals and value):
            raise ValueError(f"{text!r} is not NAME=VALUE, with commas between several")
    return [(name.strip(), value.strip()) for name, _, value in cut]


def _gates(text: str) -> Block:
    return Block([(name, _boolean(value)) for name, value in _pairs(text)])


def _vmodule(text: str) -> list[Block]:
    return [
        Block([("filePattern", name), ("verbosity", int(value))]) for name, value in _pairs(text)
    ]


def _flags(
    parse: Callable[[str], Any], **flags: tuple[str | tuple[str, ...], str]
) -> dict[str, ProxyFlag]:
    return {
        name.replace("_", "-"): ProxyFlag(parse, (to,) if isinstance(to, str) else to, words)
        for name, (to, words) in flags.items()
    }


_GONE = "it had none in kube-proxy either"

FLAGS: Mapping[str, ProxyFlag] = MappingProxyType(
    {
        **_flags(
            str,
            hostname_override=("hostnameOverride", "Name of this node's Node object."),
            bind_address=("bindAddress", "The node's primary IP; 0.0.0.0 or ::, the Node's own."),
            healthz_bind_address=(
                "healthzBindAddress",
                "Where /healthz answers; empty for nowhere.",
            ),
            metrics_bind_address=("metricsBindAddress", "Where metrics answer; empty for nowhere."),
            proxy_mode=("mode", "Whose rules count: iptables, ipvs or nftables."),
            cluster_cidr=("clusterCIDR", "CIDR of the pods, two with a comma for dual stack."),
            detect_local_mode=("detectLocalMode", "How this node's pods are recognised."),
            pod_bridge_interface=("detectLocal.bridgeInterface", "The bridge of this node's pods."),
            pod_interface_name_prefix=(
                "detectLocal.interfaceNamePrefix",
                "How names of pods' devices begin.",
            ),
            iptables_sync_period=(
                ("iptables.syncPeriod", "nftables.syncPeriod"),
                "How often the kernel is looked at.",
            ),
            iptables_min_sync_period=(("iptables.minSyncPeriod", "nftables.minSyncPeriod"), ""),
            conntrack_tcp_timeout_established=("conntrack.tcpEstablishedTimeout", ""),
            conntrack_tcp_timeout_close_wait=("conntrack.tcpCloseWaitTimeout", ""),
            conntrack_udp_timeout=("conntrack.udpTimeout", ""),
            conntrack_udp_timeout_stream=("conntrack.udpStreamTimeout", ""),
            config_sync_period=("configSyncPeriod", ""),
            ipvs_sync_period=("ipvs.syncPeriod", ""),
            ipvs_min_sync_period=("ipvs.minSyncPeriod", ""),
            ipvs_tcp_timeout=("ipvs.tcpTimeout", ""),
            ipvs_tcpfin_timeout=("ipvs.tcpFinTimeout", ""),
            ipvs_udp_timeout=("ipvs.udpTimeout", ""),
            ipvs_scheduler=("ipvs.scheduler", ""),
            kube_api_content_type=("clientConnection.contentType", ""),
            show_hidden_metrics_for_version=("showHiddenMetricsForVersion", ""),
            proxy_port_range=("portRange", ""),
            logging_format=("logging.format", "text, or json for a JSON object a line."),
            log_flush_frequency=("logging.flushFrequency", ""),
            log_text_info_buffer_size=("logging.options.text.infoBufferSize", ""),
            log_json_info_buffer_size=("logging.options.json.infoBufferSize", ""),
        ),
        **_flags(
            _boolean,
            bind_address_hard_fail=("bindAddressHardFail", "End where a server cannot bind."),
            profiling=("enableProfiling", ""),
            masquerade_all=(
                ("iptables.masqueradeAll", "nftables.masqueradeAll"),
                "Hide all clients of ClusterIPs.",
            ),
            iptables_localhost_nodeports=(
                "iptables.localhostNodePorts",
                "NodePorts on 127.0.0.1, too.",
            ),
            ipvs_strict_arp=("ipvs.strictARP", ""),
            conntrack_tcp_be_liberal=("conntrack.tcpBeLiberal", ""),
            log_text_split_stream=("logging.options.text.splitStream", ""),
            log_json_split_stream=("logging.options.json.splitStream", ""),
        ),
        **_flags(
            int,
            iptables_masquerade_bit=("iptables.masqueradeBit", "The mark of forwardAccept."),
            conntrack_max_per_core=("conntrack.maxPerCore", ""),
            conntrack_min=("conntrack.min", ""),
            oom_score_adj=("oomScoreAdj", "The agent's own oom_score_adj."),
            kube_api_burst=("clientConnection.burst", ""),
            v=("logging.verbosity", "How much is logged: 4 and more is for finding faults."),
        ),
        **_flags(float, kube_api_qps=("clientConnection.qps", "")),
        **_flags(
            _words,
            nodeport_addresses=("nodePortAddresses", "CIDRs of NodePorts' addresses, or primary."),
            ipvs_exclude_cidrs=("ipvs.excludeCIDRs", ""),
        ),
        **_flags(_gates, feature_gates=("featureGates", "NAME=true|false, with commas.")),
        **_flags(
            _vmodule, vmodule=("logging.vmodule", "-v for single modules: PATTERN=N, with commas.")
        ),
        # until Kubernetes 1.2x and 1.3x; the port counts where the address has none (A18.3)
        "healthz-port": ProxyFlag(int, (), ""),
        "metrics-port": ProxyFlag(int, (), ""),
        "boot-id-file": ProxyFlag(str, (), "", _GONE),
        "machine-id-file": ProxyFlag(str, (), "", _GONE),
    }
)
"""kube-proxy's flags that have a value, by name; Kubernetes 1.36 has all but two of them."""

BOOLEANS = frozenset(name for name, flag in FLAGS.items() if flag.parse is _boolean)
"""Those that need no value to be true."""

_PORTS = {
    "healthz-port": ("healthz-bind-address", "0.0.0.0", HEALTHZ_PORT),
    "metrics-port": ("metrics-bind-address", "127.0.0.1", METRICS_PORT),
}


def _counts_beside_file(name: str) -> bool:
    paths = FLAGS[name].paths
    return name == "hostname-override" or any(path.startswith("logging.") for path in paths)


def read_settings(path: Path | None, flags: Mapping[str, str]) -> Settings:
    """Return what a --config, if any, and kube-proxy's flags come to, by name without dashes.

    Raises ConfigError for what is wrong with flags, or if the file cannot be read; BadFileError
    with everything that is wrong in it.
    """
    if path is None:
        return _by_flags(flags)
    beside = {name: text for name, text in flags.items() if _counts_beside_file(name)}
    ignored = [f"--{name} is ignored: --config rules" for name in flags if name not in beside]
    given = _taken(beside)
    found = read_config_file(path, "--config", functools.partial(_with, given=given))
    told = (f"{path}: {each}" for each in (*found.config.warnings, *found.remarks))
    return found._replace(remarks=(*ignored, *told))


def _with(text: bytes, given: Walk) -> Settings:
    found = walk(text, SCHEMA)
    found.values.update(given.values)
    return settle(found)


def _by_flags(flags: Mapping[str, str]) -> Settings:
    found = _taken(_with_ports(flags))
    try:
        settled = settle(found)
    except BadFileError as error:
        raise ConfigError(error.message, error.remedy) from None
    in_vain = (
        f"--{name} has no meaning here: {FLAGS[name].in_vain}"
        for name in flags
        if FLAGS[name].in_vain
    )
    return settled._replace(remarks=(*settled.config.warnings, *settled.remarks, *in_vain))


def _taken(flags: Mapping[str, str]) -> Walk:
    """Return the fields that flags set. Raises ConfigError with everything that is wrong."""
    names = {path: f"--{name}" for name in flags for path in FLAGS[name].paths}
    found = Walk(FIELDS, {}, [], [], [], names)
    for name, text in flags.items():
        try:
            value = FLAGS[name].parse(text)
        except ValueError as error:
            found.errors.append(f"--{name}: {error}")
            continue
        for path in FLAGS[name].paths:
            found.take(path, value)
    if found.errors:
        raise ConfigError("; ".join(dict.fromkeys(found.errors)), "correct what is named")
    return found


def _with_ports(flags: Mapping[str, str]) -> dict[str, str]:
    """Return flags without those that were a port alone: 0 is no server (A18.3)."""
    found = dict(flags)
    for name, (address, host, default) in _PORTS.items():
        if name not in flags:
            continue
        port = found.pop(name)
        if not port.isdecimal():
            raise ConfigError(f"--{name}: {port!r} is no port", "give a number, 0 for no server")
        where = found.get(address, f"{host}:{default}")
        found[address] = _with_port(where, int(port)) if int(port) else ""
    return found


def _with_port(where: str, port: int) -> str:
    """Return an address with this port, if it has none."""
    try:
        # what has a port keeps it whatever the default
        has_port = parse_bind_address(where, 1) == parse_bind_address(where, 2)
    except ValueError:
        return where
    host = f"[{where}]" if ":" in where else where
    return where if has_port else f"{host}:{port}"

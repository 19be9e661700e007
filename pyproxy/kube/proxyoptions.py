# SPDX-License-Identifier: Apache-2.0
"""What KubeProxyConfiguration says of the traffic itself: mode, NodePorts, masquerading, pods."""

from __future__ import annotations

from pyproxy.kube.addresses import parse_prefix
from pyproxy.kube.configwalk import Walk
from pyproxy.model import Prefix
from pyproxy.plan.options import DetectLocalMode, Mode, Options

PRIMARY = "primary"
EXTERNAL_IPS_GATE = "AllowServiceExternalIPs"  # parity A2.2

# "" is what kube-proxy runs as by default; ipvs has the rules of iptables for what we ask of it
_MODES = {
    "": Mode.IPTABLES,
    "iptables": Mode.IPTABLES,
    "ipvs": Mode.IPTABLES,
    "nftables": Mode.NFTABLES,
}

_INTERFACE_OF = {
    DetectLocalMode.BRIDGE_INTERFACE: "bridgeInterface",
    DetectLocalMode.INTERFACE_NAME_PREFIX: "interfaceNamePrefix",
}


def proxy_options(found: Walk) -> Options:
    """Return the options that a file sets, with kube-proxy's defaults (A7, A9, A19).

    Errors are noted in `found`. Name, CIDRs and the Node's part are not known here.
    """
    mode = found.parsed("mode", parse_mode, Mode.IPTABLES)
    detect = found.parsed("detectLocalMode", parse_detect_local_mode, DetectLocalMode.CLUSTER_CIDR)
    addresses, primary = _node_port_addresses(found, mode)
    return Options(
        node_name="",
        mode=mode,
        masquerade_bit=found.values.get(f"{mode.value}.masqueradeBit", Options("").masquerade_bit),
        masquerade_all=found.values.get(f"{mode.value}.masqueradeAll") is True,
        detect_local_mode=detect,
        local_interface=_interface(found, detect),
        node_port_addresses=addresses,
        node_ports_on_primary=primary,
        localhost_node_ports=found.values.get("iptables.localhostNodePorts") is not False,
        allow_service_external_ips=feature_gates(found).get(EXTERNAL_IPS_GATE, True),
    )


def parse_mode(text: str) -> Mode:
    """Return which of kube-proxy's modes is imitated. Raises ValueError."""
    if text not in _MODES:
        raise ValueError(f"{text!r} is no mode: iptables, ipvs or nftables")
    return _MODES[text]


def feature_gates(found: Walk) -> dict[str, bool]:
    """Return the feature gates that are set."""
    gates = found.values.get("featureGates")
    return dict(gates.pairs) if gates else {}


def parse_detect_local_mode(text: str) -> DetectLocalMode:
    """Return how pods are recognised (A9.14). Raises ValueError."""
    try:
        return DetectLocalMode(text)
    except ValueError:
        known = ", ".join(mode.value for mode in DetectLocalMode)
        raise ValueError(f"{text!r} is none of {known}") from None


def parse_node_port_addresses(texts: list[str], mode: Mode) -> tuple[tuple[Prefix, ...], bool]:
    """Return CIDRs, and whether it is the Node's addresses instead (A7.2, A7.3).

    Raises ValueError.
    """
    if not texts:
        return (), mode is Mode.NFTABLES
    if PRIMARY in texts:
        if len(texts) > 1:
            raise ValueError(f"{PRIMARY!r} stands alone or not at all")
        return (), True
    return tuple(map(parse_prefix, texts)), False


def _node_port_addresses(found: Walk, mode: Mode) -> tuple[tuple[Prefix, ...], bool]:
    texts = found.values.get("nodePortAddresses") or []
    try:
        return parse_node_port_addresses(list(texts), mode)
    except ValueError as error:
        found.wrong("nodePortAddresses", str(error))
        return (), False


def _interface(found: Walk, detect: DetectLocalMode) -> str:
    field = _INTERFACE_OF.get(detect)
    if not field:
        return ""
    name = found.text(f"detectLocal.{field}")
    if not name:
        found.wrong(f"detectLocal.{field}", f"detectLocalMode {detect.value} needs one")
    return name

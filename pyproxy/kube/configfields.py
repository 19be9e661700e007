# SPDX-License-Identifier: Apache-2.0
"""Every field of KubeProxyConfiguration v1alpha1 by its path, and what a value of it looks like.

Source: k8s.io/kube-proxy/config/v1alpha1/types.go, component-base's logs and config v1alpha1
(parity A19.2 to A19.8). null means "the default" everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pyproxy.kube.yamltext import Pairs

_DURATION = re.compile(r"[-+]?(?:0|(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_QUANTITY = re.compile(
    r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?"
)


class FieldType(NamedTuple):
    """A type of values: its name in messages, and the test for it."""

    name: str
    fits: Callable[[Any], bool]


class Block(NamedTuple):
    """A mapping with further fields, written down by their whole path."""

    pairs: Pairs


def is_block(value: Any) -> bool:
    """Tell whether a value is a mapping."""
    return isinstance(value, Block)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_int32(value: Any) -> bool:
    return isinstance(value, int) and not _is_bool(value) and -(2**31) <= value < 2**31


def _is_flush_frequency(value: Any) -> bool:
    """Tell a duration, or the number of nanoseconds that it was before Kubernetes 1.28."""
    return _is_duration(value) or (isinstance(value, int) and not _is_bool(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not _is_bool(value)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _is_duration(value: Any) -> bool:
    return _is_string(value) and _DURATION.fullmatch(value) is not None


def _is_quantity(value: Any) -> bool:
    if _is_string(value):
        return _QUANTITY.fullmatch(value) is not None
    return _is_number(value)


def _is_flags(value: Any) -> bool:
    return is_block(value) and all(_is_bool(flag) for _, flag in value.pairs)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


_STRING = FieldType("a string", _is_string)
_BOOL = FieldType("true or false", _is_bool)
_INT = FieldType("an integer of 32 bits", _is_int32)
_NUMBER = FieldType("a number", _is_number)
_STRINGS = FieldType("a list of strings", _is_strings)
_DURATION_TYPE = FieldType("a duration such as 30s", _is_duration)
_FLUSH = FieldType("a duration such as 5s", _is_flush_frequency)
_QUANTITY_TYPE = FieldType("a quantity such as 64Ki", _is_quantity)
_FLAGS = FieldType("a mapping of names to true or false", _is_flags)
_LIST = FieldType("a list", _is_list)
_MAPPING = FieldType("a mapping", is_block)


def _under(path: str, type_: FieldType, names: str) -> dict[str, FieldType]:
    return {f"{path}.{name}" if path else name: type_ for name in names.split()}


FIELDS: Mapping[str, FieldType] = MappingProxyType(
    {
        **_under(
            "",
            _STRING,
            "apiVersion kind bindAddress clusterCIDR detectLocalMode healthzBindAddress"
            " hostnameOverride metricsBindAddress mode portRange showHiddenMetricsForVersion",
        ),
        **_under("", _BOOL, "bindAddressHardFail enableProfiling windowsRunAsService"),
        **_under("", _DURATION_TYPE, "configSyncPeriod"),
        **_under("", _INT, "oomScoreAdj"),
        **_under("", _STRINGS, "nodePortAddresses"),
        **_under("", _FLAGS, "featureGates"),
        **_under(
            "",
            _MAPPING,
            "clientConnection conntrack detectLocal iptables ipvs nftables winkernel logging",
        ),
        **_under("clientConnection", _STRING, "acceptContentTypes contentType kubeconfig"),
        **_under("clientConnection", _INT, "burst"),
        **_under("clientConnection", _NUMBER, "qps"),
        **_under("conntrack", _INT, "maxPerCore min"),
        **_under("conntrack", _BOOL, "tcpBeLiberal"),
        **_under(
            "conntrack",
            _DURATION_TYPE,
            "tcpCloseWaitTimeout tcpEstablishedTimeout udpStreamTimeout udpTimeout",
        ),
        **_under("detectLocal", _STRING, "bridgeInterface interfaceNamePrefix"),
        **_under("iptables", _BOOL, "localhostNodePorts masqueradeAll"),
        **_under("iptables", _INT, "masqueradeBit"),
        **_under("iptables", _DURATION_TYPE, "minSyncPeriod syncPeriod"),
        **_under("nftables", _BOOL, "masqueradeAll"),
        **_under("nftables", _INT, "masqueradeBit"),
        **_under("nftables", _DURATION_TYPE, "minSyncPeriod syncPeriod"),
        **_under("ipvs", _STRINGS, "excludeCIDRs"),
        **_under("ipvs", _STRING, "scheduler"),
        **_under("ipvs", _BOOL, "strictARP"),
        **_under(
            "ipvs",
            _DURATION_TYPE,
            "minSyncPeriod syncPeriod tcpTimeout tcpFinTimeout udpTimeout",
        ),
        **_under("winkernel", _BOOL, "enableDSR forwardHealthCheckVip"),
        **_under("winkernel", _STRING, "networkName rootHnsEndpointName sourceVip"),
        **_under("logging", _STRING, "format"),
        **_under("logging", _FLUSH, "flushFrequency"),
        **_under("logging", _INT, "verbosity"),
        **_under("logging", _LIST, "vmodule"),
        **_under("logging", _MAPPING, "options options.json options.text"),
        **_under("logging.options.json", _QUANTITY_TYPE, "infoBufferSize"),
        **_under("logging.options.text", _QUANTITY_TYPE, "infoBufferSize"),
        **_under("logging.options.json", _BOOL, "splitStream"),
        **_under("logging.options.text", _BOOL, "splitStream"),
    }
)
"""What is known, by path. A path that is not here is unknown (A19.1)."""

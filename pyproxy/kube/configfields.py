# SPDX-License-Identifier: Apache-2.0
"""Every field of KubeProxyConfiguration v1alpha1 by its path, and what a value of it looks like.

Source: k8s.io/kube-proxy/config/v1alpha1/types.go, component-base's logs and config v1alpha1
(parity A19.2 to A19.8), and of kube-proxy's validation what bounds numbers and durations of
`conntrack` and `clientConnection` (A19.11). null means "the default" everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pyproxy.kube.configtypes import (
    BIT,
    BOOL,
    COUNT,
    DURATION,
    FLAGS,
    FLUSH,
    LOG_FORMAT,
    MAPPING,
    NUMBER,
    OOM_SCORE_ADJ,
    QUANTITY,
    SPAN,
    STRING,
    STRINGS,
    VERBOSITY,
    FieldType,
)
from pyproxy.kube.proxylogging import VMODULE


def _under(path: str, type_: FieldType, names: str) -> dict[str, FieldType]:
    return {f"{path}.{name}" if path else name: type_ for name in names.split()}


FIELDS: Mapping[str, FieldType] = MappingProxyType(
    {
        **_under(
            "",
            STRING,
            "apiVersion kind bindAddress clusterCIDR detectLocalMode healthzBindAddress"
            " hostnameOverride metricsBindAddress mode portRange showHiddenMetricsForVersion",
        ),
        **_under("", BOOL, "bindAddressHardFail enableProfiling windowsRunAsService"),
        **_under("", DURATION, "configSyncPeriod"),
        **_under("", OOM_SCORE_ADJ, "oomScoreAdj"),
        **_under("", STRINGS, "nodePortAddresses"),
        **_under("", FLAGS, "featureGates"),
        **_under(
            "",
            MAPPING,
            "clientConnection conntrack detectLocal iptables ipvs nftables winkernel logging",
        ),
        **_under("clientConnection", STRING, "acceptContentTypes contentType kubeconfig"),
        **_under("clientConnection", COUNT, "burst"),
        **_under("clientConnection", NUMBER, "qps"),
        **_under("conntrack", COUNT, "maxPerCore min"),
        **_under("conntrack", BOOL, "tcpBeLiberal"),
        **_under(
            "conntrack",
            SPAN,
            "tcpCloseWaitTimeout tcpEstablishedTimeout udpStreamTimeout udpTimeout",
        ),
        **_under("detectLocal", STRING, "bridgeInterface interfaceNamePrefix"),
        **_under("iptables", BOOL, "localhostNodePorts masqueradeAll"),
        **_under("iptables", BIT, "masqueradeBit"),
        **_under("iptables", DURATION, "minSyncPeriod syncPeriod"),
        **_under("nftables", BOOL, "masqueradeAll"),
        **_under("nftables", BIT, "masqueradeBit"),
        **_under("nftables", DURATION, "minSyncPeriod syncPeriod"),
        **_under("ipvs", STRINGS, "excludeCIDRs"),
        **_under("ipvs", STRING, "scheduler"),
        **_under("ipvs", BOOL, "strictARP"),
        **_under(
            "ipvs",
            DURATION,
            "minSyncPeriod syncPeriod tcpTimeout tcpFinTimeout udpTimeout",
        ),
        **_under("winkernel", BOOL, "enableDSR forwardHealthCheckVip"),
        **_under("winkernel", STRING, "networkName rootHnsEndpointName sourceVip"),
        **_under("logging", LOG_FORMAT, "format"),
        **_under("logging", FLUSH, "flushFrequency"),
        **_under("logging", VERBOSITY, "verbosity"),
        **_under("logging", VMODULE, "vmodule"),
        **_under("logging", MAPPING, "options options.json options.text"),
        **_under("logging.options.json", QUANTITY, "infoBufferSize"),
        **_under("logging.options.text", QUANTITY, "infoBufferSize"),
        **_under("logging.options.json", BOOL, "splitStream"),
        **_under("logging.options.text", BOOL, "splitStream"),
    }
)
"""What is known, by path. A path that is not here is unknown (A19.1)."""

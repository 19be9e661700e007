# SPDX-License-Identifier: Apache-2.0
"""What there is of every service, written by hand: 80,000 lines for 10,000 services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from pyproxy.model import Family, ServicePortName
from pyproxy.tables import ServiceCounters

CHUNK_LINES = 500

_Rows = list[tuple[str, ServiceCounters]]


class _Metric(NamedTuple):
    name: str
    help: str
    samples: tuple[tuple[str, int], ...]  # more labels, and the counter's place


_PLACE = {field: place for place, field in enumerate(ServiceCounters._fields)}
METRICS = (
    _Metric(
        "pyproxy_service_connections_total",
        "Connections to a service port: sockets that were translated when they connected or sent "
        "(path socket), and connections that began by packets (path packet).",
        (
            (',path="socket"', _PLACE["socket_connections"]),
            (',path="packet"', _PLACE["packet_connections"]),
        ),
    ),
    _Metric(
        "pyproxy_service_packets_total",
        "Packets to and from a service port, of connections by packets.",
        (("", _PLACE["packets"]),),
    ),
    _Metric(
        "pyproxy_service_bytes_total",
        "Bytes to and from a service port, of connections by packets.",
        (("", _PLACE["bytes"]),),
    ),
)


def service_lines(
    found: Mapping[tuple[Family, ServicePortName], ServiceCounters],
) -> Iterator[bytes]:
    """Yield the metrics of every service in Prometheus' text format 0.0.4, in pieces."""
    rows = [(_labels(*key), counters) for key, counters in found.items()]
    for metric in METRICS:
        yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} counter\n".encode()
        lines = _lines(metric, rows)
        while piece := "".join(islice(lines, CHUNK_LINES)):
            yield piece.encode()


def _lines(metric: _Metric, rows: _Rows) -> Iterable[str]:
    name = metric.name
    return (
        f"{name}{{{labels}{more}}} {counters[place]}\n"
        for labels, counters in rows
        for more, place in metric.samples
    )


def _labels(family: Family, port: ServicePortName) -> str:
    return (
        f'namespace="{escaped(port.namespace)}",service="{escaped(port.name)}",'
        f'port="{escaped(port.port)}",protocol="{port.protocol.name}",ip_family="{family.label}"'
    )


def escaped(value: str) -> str:
    """Return a label's value as it stands between quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

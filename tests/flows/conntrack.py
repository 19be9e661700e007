# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's cases of stale connections (`conntrack_cleanup`), each told as single entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.flows.load import FlowFileError
from tests.flows.objects import Json

NODE_IP = "10.0.0.2"  # stands for "any IP", where a NodePort counts


class Entry(NamedTuple):
    """A tracked connection before the endpoints change, and whether it outlives that.

    It was sent to `address`:`port` and led to `endpoint`:`endpoint_port`; where `endpoint` is ""
    nothing had translated it.
    """

    protocol: str
    address: str
    port: int
    endpoint: str
    endpoint_port: int
    is_kept: bool


class Row(NamedTuple):
    """A line of the file with its entries; `name` says which it is."""

    name: str
    entries: tuple[Entry, ...]


class Cleanup(NamedTuple):
    """The section: the service's shorthand, its endpoints, and the lines."""

    service: Json
    endpoints: Json
    rows: tuple[Row, ...]


def read_cleanup(path: Path) -> Cleanup:
    """Return the section of a file. Raises FlowFileError where a line isn't understood."""
    section = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)["conntrack_cleanup"]
    rows = tuple(
        Row(f"{n}-{short['result']}-{short.get('why', short['proto'])}".replace(" ", "-"), found)
        for n, short in enumerate(section["entries"], 1)
        if (found := tuple(_entries(section, short)))
    )
    if len(rows) < len(section["entries"]):
        raise FlowFileError(f"{path} has lines of conntrack_cleanup without entries")
    return Cleanup(section["service"], section["endpoints"], rows)


def _entries(section: Json, short: Json) -> Iterator[Entry]:
    ports = [int(number) for number in str(short["origPort"]).split("/")]
    for protocol in short["proto"].split(" or "):
        for address in _addresses(section["service"], short["origDst"]):
            port = ports[-1] if address == NODE_IP else ports[0]
            for endpoint in _endpoints(section["endpoints"], short["replySrc"]):
                kept = short["result"] == "keep"
                yield Entry(protocol, address, port, endpoint, short["replyPort"], kept)


def _addresses(service: Json, text: str) -> list[str]:
    vips = [service[key] for key in ("clusterIP", "externalIP", "lbIP")]
    known = {
        "any of the 3 VIPs": vips,
        "any IP": [NODE_IP],
        "any VIP or nodePort": [*vips, NODE_IP],
    }
    return known.get(text, [])


def _endpoints(endpoints: Json, text: str) -> list[str]:
    known = [each for key in ("serving", "notServing", "gone") for each in endpoints[key]]
    if text.startswith("same as origDst"):
        return [""]
    return known if text == "any" else [each for each in text.split(" or ") if each in known]

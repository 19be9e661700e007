# SPDX-License-Identifier: Apache-2.0
"""What leads to a connection: the keys of `nat` that a record asks for (bpf/connection.h).

An entry is to be believed only if its key is among those of the record that it leads to: between
two looks a record may have become another connection's (datapath rule 7).
"""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.kernel.btf import Field
from pyproxy.kernel.codec import Codec
from pyproxy.kernel.connections import Life
from pyproxy.kernel.maps import ArrayMap

_RECORD = (
    "life", "client.addr", "client.port", "frontend.addr", "frontend.port", "backend.addr",
    "backend.port", "client_port", "proto", "source.addr", "source.port",
)  # fmt: skip
_KEY = ("src", "src_port", "dst", "dst_port", "proto", "side")
_INGRESS, _EGRESS = 0, 1  # `enum side` of bpf/types.h


class Leads:
    """Makes keys out of records; the layouts are those that the pinned maps have."""

    def __init__(self, records: ArrayMap, key: dict[str, Field], key_size: int) -> None:
        self._record = records.codec(_RECORD)
        self._key = Codec(key, key_size, _KEY)

    def keys(self, raw: bytes) -> Iterator[bytes]:
        """Give all keys that may lead to this record; none if it is no connection's."""
        life, *fields = self._record.unpack(raw)
        client_addr, client_port, *fields = fields
        frontend_addr, frontend_port, backend_addr, backend_port, inner_port, proto, *source = (
            fields
        )
        client, frontend = (client_addr, client_port), (frontend_addr, frontend_port)
        inner, backend = (client_addr, inner_port), (backend_addr, backend_port)
        if not life & Life.READY:
            return
        yield self._key.pack(*client, *frontend, proto, _INGRESS)
        if life & Life.PASS:
            return
        yield self._key.pack(*backend, *inner, proto, _EGRESS)
        if life & Life.SOURCE_WANTED:
            yield self._key.pack(*inner, *backend, proto, _EGRESS)
        if life & Life.SOURCE_READY:
            yield self._key.pack(*backend, *source, proto, _INGRESS)

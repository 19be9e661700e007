# SPDX-License-Identifier: Apache-2.0
"""From bytes or plain objects to the model's records, through the structs of wire.py.

A document is either `msgspec.Raw` or `bytes` (JSON, from the API server or a .json file) or a
plain object (from YAML). It is reduced at once, so nothing of it stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, ValidationError

from pyproxy.errors import SourceError
from pyproxy.kube import reduce, wire
from pyproxy.kube.events import Change, Kind, Record
from pyproxy.model import ObjectName

Document: TypeAlias = Any
"""msgspec.Raw, bytes, or what YAML gave."""

_Struct = TypeVar("_Struct", bound=Struct)


class _Decoder(NamedTuple):
    struct: type[Any]
    reduce: Callable[[ObjectName, Any], Record | None]
    namespaced: bool
    trigger_time: Callable[[Any], float] = lambda _: 0.0


_DECODERS = {
    Kind.SERVICE: _Decoder(wire.Service, reduce.service, namespaced=True),
    Kind.ENDPOINT_SLICE: _Decoder(
        wire.EndpointSlice, reduce.endpoint_slice, namespaced=True, trigger_time=reduce.trigger_time
    ),
    Kind.NODE: _Decoder(wire.Node, reduce.node, namespaced=False),
    Kind.SERVICE_CIDR: _Decoder(wire.ServiceCIDR, reduce.service_cidr, namespaced=False),
}


def decode(kind: Kind, document: Document) -> Change:
    """Return the object as it is now; its `object` is None where it is not to be proxied.

    A missing namespace means "default". Raises SourceError, which names the object and the
    JSON path of what is wrong.
    """
    decoder = _DECODERS[kind]
    name = ObjectName("", "")
    try:
        name = name_of(kind, document)
        found = typed(document, decoder.struct)
        return Change(kind, name, decoder.reduce(name, found), decoder.trigger_time(found))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SourceError(
            f"{reference(kind, name)} is malformed: {error}",
            "correct this field; until then the last good version of the object counts",
        ) from error


def name_of(kind: Kind, document: Document) -> ObjectName:
    """Return the object's name; raises msgspec.ValidationError where it has none."""
    namespace, name = typed(document, wire.Named).key
    if not name:
        raise ValidationError("Object missing required field `name` - at `$.metadata`")
    return ObjectName(namespace if _DECODERS[kind].namespaced else "", name)


def reference(kind: Kind, name: ObjectName) -> str:
    """Return how messages speak of an object: "Service default/web", "Node n1"."""
    if not name.name:
        return f"{kind.value} without a name"
    return f"{kind.value} {name}" if name.namespace else f"{kind.value} {name.name}"


def typed(document: Document, struct: type[_Struct]) -> _Struct:
    """Return the fields that the struct names; raises msgspec.MsgspecError."""
    if isinstance(document, bytes | msgspec.Raw):
        return msgspec.json.decode(document, type=struct)
    return msgspec.convert(document, struct)

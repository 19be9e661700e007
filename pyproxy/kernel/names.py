# SPDX-License-Identifier: Apache-2.0
"""Who service ids are, as it stands in the map `service_names`."""

from __future__ import annotations

from typing import Any

from pyproxy.errors import KernelError
from pyproxy.kernel.codec import text
from pyproxy.kernel.maps import HashMap
from pyproxy.kernel.pins import Pins, other_layouts
from pyproxy.model import Protocol, ServicePortName
from pyproxy.sync.api import NamedService

NAME = ("namespace", "name", "port", "created", "proto")


def named_by(value: tuple[Any, ...]) -> NamedService:
    """Return who a value of NAME's fields names."""
    namespace, name, port, created, protocol = value
    full = ServicePortName(text(namespace), text(name), text(port), Protocol(protocol))
    return NamedService(full, text(created))


def name_fields(named: NamedService) -> tuple[Any, ...]:
    """Return NAME's fields of a service."""
    name = named.name
    words = (name.namespace, name.name, name.port, named.created)
    return (*(word.encode() for word in words), int(name.protocol))


def former_ids(pins: Pins) -> dict[ServicePortName, int]:
    """Return the ids that an agent of another layout gave: the connections, which stay, bear them.

    What cannot be read has none: such connections choose anew.
    """
    found: dict[ServicePortName, int] = {}
    for layout in other_layouts(pins.root):
        maps = layout / str(pins.family.value) / "maps"
        try:
            names = HashMap(str(maps / "service_names"), ("",), NAME)
        except KernelError:
            continue
        found |= {named_by(value).name: number for (number,), value in names.items()}
        names.close()
    return found

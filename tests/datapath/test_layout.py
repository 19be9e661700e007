# SPDX-License-Identifier: Apache-2.0
"""The layouts: what C and Python call alike is alike, and no struct changes unnoticed."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pyproxy.kernel import inspect, libbpf, links
from pyproxy.kernel.btf import Types
from pyproxy.kernel.datapath import SETTING_DROPPING
from pyproxy.kernel.pins import LAYOUT_VERSION, Pins
from pyproxy.kernel.source import bpf_directory
from pyproxy.tables import BackendFlag, Kind, ServiceFlag
from tests.datapath.node import Node

GOLDEN = Path(__file__).with_name("golden") / "layout.json"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_ENUM = re.compile(r"enum (\w+) \{(.*?)\}", re.DOTALL)
_ENTRY = re.compile(r"(\w+)(?:\s*=\s*(\w+))?")

Layout = dict[str, Any]


def enums(text: str) -> dict[str, dict[str, int]]:
    """Return the enums of a C text: names and numbers of their entries."""
    found = {}
    for name, body in _ENUM.findall(_COMMENT.sub("", text)):
        entries: dict[str, int] = {}
        for entry, value in _ENTRY.findall(body):
            following = max(entries.values(), default=-1) + 1
            entries[entry] = int(value, 0) if value else following
        found[name] = entries
    return found


@pytest.fixture(scope="module")
def types() -> dict[str, dict[str, int]]:
    """The enums of bpf/types.h."""
    return enums((bpf_directory() / "types.h").read_text())


def prefixed(prefix: str, members: type[enum.IntEnum | enum.IntFlag]) -> dict[str, int]:
    """Return an enum of Python as C spells it."""
    return {f"{prefix}_{each.name}": int(each) for each in members}


def test_enums_are_read() -> None:
    """Numbers given and counted, comments and hexadecimal are understood."""
    text = "enum a { /* no, B */ A, B = 0x10, /* C = 3 */ C };\nenum d { D = 2, };"
    assert enums(text) == {"a": {"A": 0, "B": 16, "C": 17}, "d": {"D": 2}}


@pytest.mark.parametrize(
    ("name", "prefix", "members"),
    [
        ("frontend_kind", "KIND", Kind),
        ("service_flag", "SERVICE", ServiceFlag),
        ("backend_flag", "BACKEND", BackendFlag),
    ],
)
def test_enums_are_the_same_in_c_and_python(
    types: dict[str, dict[str, int]],
    name: str,
    prefix: str,
    members: type[enum.IntEnum | enum.IntFlag],
) -> None:
    """Every entry of an enum in bpf/types.h has its twin in pyproxy/tables.py, and no other."""
    assert types[name] == prefixed(prefix, members)


def test_counters_have_the_names_of_the_enum(types: dict[str, dict[str, int]]) -> None:
    """Status names the counters in the order in which the programs count them."""
    names = (*inspect.COUNTERS, "max")
    assert types["counter"] == {f"COUNTER_{name.upper()}": i for i, name in enumerate(names)}


def test_settings_have_the_numbers_of_the_enum(types: dict[str, dict[str, int]]) -> None:
    """The agent writes the settings that the programs read."""
    assert types["setting"] == {"SETTING_DROPPING": SETTING_DROPPING, "SETTING_MAX": 1}


def test_no_enum_is_forgotten(types: dict[str, dict[str, int]]) -> None:
    """Each enum of bpf/types.h is compared by a test above."""
    compared = {"frontend_kind", "service_flag", "backend_flag", "counter", "setting"}
    assert types.keys() == compared


def layout_of(node: Node) -> Layout:
    """Return the layouts of all pinned maps, as the kernel describes them."""
    found: Layout = {"LAYOUT_VERSION": LAYOUT_VERSION}
    for family, each in node.loaded.items():
        found[family.label] = {pin.name: _map_layout(pin) for pin in _maps(each.pins)}
    return found


def _maps(pins: Pins) -> list[Path]:
    return sorted((*pins.maps.iterdir(), *pins.shared.iterdir()), key=lambda pin: pin.name)


def _map_layout(pin: Path) -> Layout:
    with links.opened(pin) as fd:
        shape = libbpf.map_info(fd)
    types = Types(libbpf.btf(shape.btf_id))
    return {
        "type": shape.type,
        "key": {"size": shape.key_size, **_fields(types, shape.btf_key_type)},
        "value": {"size": shape.value_size, **_fields(types, shape.btf_value_type)},
    }


def _fields(types: Types, number: int) -> Layout:
    fields = types.fields(number)
    return {f".{path}": [each.offset, each.size] for path, each in fields.items()}


def test_layouts_are_those_of_their_version(node: Node, request: pytest.FixtureRequest) -> None:
    """Pinned maps outlive the agent: whoever changes a struct must say so by its version.

    After a change of bpf/types.h: count LAYOUT_VERSION in pyproxy/kernel/pins.py up, then run
    `pytest tests/datapath/test_layout.py --update-golden`.
    """
    now = layout_of(node)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"LAYOUT_VERSION": 0}
    if now != golden and request.config.getoption("--update-golden", default=False):
        assert now["LAYOUT_VERSION"] > golden["LAYOUT_VERSION"], (
            "a struct changed: count LAYOUT_VERSION up in pyproxy/kernel/pins.py first"
        )
        GOLDEN.write_text(dumped(now))
        return
    assert now == golden, "a struct changed: see this test's docstring for what to do"


def dumped(layout: Layout) -> str:
    """Return a layout as text, one field a line."""
    text = json.dumps(layout, indent=1)
    return re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text) + "\n"


def test_both_families_have_the_same_fields(node: Node) -> None:
    """One source serves both families: maps and fields have the same names in both."""
    by_family = layout_of(node)

    def names(label: str) -> dict[str, list[list[str]]]:
        maps = by_family[label].items()
        return {name: [list(each["key"]), list(each["value"])] for name, each in maps}

    assert names("IPv4") == names("IPv6")

# SPDX-License-Identifier: Apache-2.0
"""The layouts: what C and Python call alike is alike, and no struct changes unnoticed."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyproxy.kernel import inspect, libbpf, links, programs
from pyproxy.kernel.addresses import FAST, PEER, PODS, PORT, TUNNEL, UPLINK, NodeAddressFlag
from pyproxy.kernel.btf import Types
from pyproxy.kernel.connections import Life
from pyproxy.kernel.datapath import FrontendFlag
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.packetpath import REFRESH_TICKS, SETTINGS, TICK_NS, Detector, Policy
from pyproxy.kernel.pins import CONNECTIONS_VERSION, LAYOUT_VERSION
from pyproxy.kernel.source import bpf_directory
from pyproxy.kernel.strict import Strictness
from pyproxy.tables import BackendFlag, Kind, ServiceFlag
from tests.datapath.node import Loaded, Node

GOLDEN = Path(__file__).with_name("golden")

# what only C has a name for
C_ALONE = {"side", "role"}

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
    """The enums of bpf/types.h and bpf/numbers.h."""
    texts = ((bpf_directory() / name).read_text() for name in ("types.h", "numbers.h"))
    return {name: found for text in texts for name, found in enums(text).items()}


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
        ("life", "LIFE", Life),
        ("node_address_flag", "NODE_ADDRESS", NodeAddressFlag),
        ("frontend_flag", "FRONTEND", FrontendFlag),
        ("detector", "DETECTOR", Detector),
        ("policy", "POLICY", Policy),
        ("strictness", "STRICT", Strictness),
        ("fast_path", "FAST_PATH", FastPath),
    ],
)
def test_enums_are_the_same_in_c_and_python(
    types: dict[str, dict[str, int]],
    name: str,
    prefix: str,
    members: type[enum.IntEnum | enum.IntFlag],
) -> None:
    """Every entry of an enum of bpf/ has its twin in Python, and no other."""
    assert types[name] == prefixed(prefix, members)


def in_order(prefix: str, names: Iterable[str], end: str) -> dict[str, int]:
    """Return an enum of names in order, closed by their number, as C spells it."""
    entries = [f"{prefix}_{name.upper()}" for name in names]
    return {entry: number for number, entry in enumerate([*entries, end])}


def stages() -> list[str]:
    """Return all stages: a program serves each, and one for each former table."""
    further = [f"adopt_{n}" for n in range(1, programs.FORMER_TABLES)]
    return [*map(stage_of, (*programs.STAGES, programs.ADOPT)), *further]


def stage_of(program: programs.Program) -> str:
    """Return the stage that a program serves; some cannot be called like theirs."""
    side, _, more = program.name.partition("_")
    if side in {"ingress", "egress"}:
        return side  # the entries have these names
    return more if program.name == "open_direct" else program.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("counter", in_order("COUNTER", inspect.COUNTERS, "COUNTER_MAX")),
        ("moment", in_order("MOMENT", inspect.MOMENTS, "MOMENT_MAX")),
        ("setting", in_order("SETTING", SETTINGS, "SETTING_MAX")),
        ("entry_point", in_order("ENTRY", (each.name for each in programs.ENTRIES), "ENTRIES")),
        ("stage", in_order("STAGE", stages(), "STAGES")),
        (
            "device_flag",
            {
                "DEVICE_UPLINK": UPLINK,
                "DEVICE_PODS": PODS,
                "DEVICE_FAST": FAST,
                "DEVICE_PEER": PEER,
                "DEVICE_PORT": PORT,
                "DEVICE_TUNNEL": TUNNEL,
            },
        ),
    ],
)
def test_names_in_order_are_the_numbers_of_the_enum(
    types: dict[str, dict[str, int]], name: str, expected: dict[str, int]
) -> None:
    """Counters, settings, programs of the arrays: Python's order is the number in C."""
    assert types[name] == expected


def test_no_enum_is_forgotten(types: dict[str, dict[str, int]]) -> None:
    """Each enum of those files is compared by a test above, but for those of C alone."""
    compared = {
        "frontend_kind", "service_flag", "backend_flag", "life", "counter", "moment", "setting",
        "entry_point", "stage", "device_flag", "node_address_flag", "frontend_flag",
        "detector", "policy", "strictness", "fast_path",
    }  # fmt: skip
    assert types.keys() == compared | C_ALONE


def test_every_moment_is_one_of_a_counter() -> None:
    """Status says of a counter when it last grew, by the name they share."""
    assert set(inspect.MOMENTS) <= set(inspect.COUNTERS)


@pytest.mark.parametrize(
    ("header", "name", "number"),
    [
        ("types.h", "TICK_SHIFT", TICK_NS.bit_length() - 1),
        ("connection.h", "REFRESH_TICKS", REFRESH_TICKS),
        ("shared.h", "MARKS", 1 << 16),
    ],
)
def test_numbers_are_the_same_in_c_and_python(header: str, name: str, number: int) -> None:
    """Timeouts are written in the unit in which the programs count; a hash has 16 bits."""
    found = re.search(rf"#define {name} (\d+)", (bpf_directory() / header).read_text())
    assert found
    assert int(found[1]) == number


class Golden(NamedTuple):
    """Layouts that share a version: its name, its number, and which pinned maps they are of."""

    file: str
    version: str
    number: int
    maps: Callable[[Loaded], list[Path]]


def _all_maps(each: Loaded) -> list[Path]:
    return [*each.pins.maps.iterdir(), *each.pins.shared.iterdir()]


def _connection_maps(each: Loaded) -> list[Path]:
    return list(each.connections.iterdir())


# connections outlive a change of all other layouts (rule 23)
GOLDENS = (
    Golden("layout.json", "LAYOUT_VERSION", LAYOUT_VERSION, _all_maps),
    Golden("connections.json", "CONNECTIONS_VERSION", CONNECTIONS_VERSION, _connection_maps),
)


def layout_of(node: Node, golden: Golden) -> Layout:
    """Return the layouts of pinned maps, as the kernel describes them."""
    found: Layout = {golden.version: golden.number}
    for family, each in node.loaded.items():
        # beside a table of connections a directory says when it was used last
        pins = sorted(filter(Path.is_file, golden.maps(each)), key=lambda pin: pin.name)
        found[family.label] = {pin.name: _map_layout(pin) for pin in pins}
    return found


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


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.file)
def test_layouts_are_those_of_their_version(
    node: Node, request: pytest.FixtureRequest, golden: Golden
) -> None:
    """Pinned maps outlive the agent: whoever changes a struct must say so by its version.

    After a change of bpf/types.h: count the version in pyproxy/kernel/pins.py up, then run
    `pytest tests/datapath/test_layout.py --update-golden`. Of a version that was never released
    delete the golden file first instead.
    """
    now, path = layout_of(node, golden), GOLDEN / golden.file
    before = json.loads(path.read_text()) if path.exists() else {golden.version: 0}
    if now != before and request.config.getoption("--update-golden", default=False):
        assert now[golden.version] > before[golden.version], (
            f"a struct changed: count {golden.version} up in pyproxy/kernel/pins.py first"
        )
        path.write_text(dumped(now))
        return
    assert now == before, "a struct changed: see this test's docstring for what to do"


def dumped(layout: Layout) -> str:
    """Return a layout as text, one field a line."""
    text = json.dumps(layout, indent=1)
    return re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text) + "\n"


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.file)
def test_both_families_have_the_same_fields(node: Node, golden: Golden) -> None:
    """One source serves both families: maps and fields have the same names in both."""
    by_family = layout_of(node, golden)

    def names(label: str) -> dict[str, list[list[str]]]:
        maps = by_family[label].items()
        return {name: [list(each["key"]), list(each["value"])] for name, each in maps}

    assert names("IPv4") == names("IPv6")


def test_a_record_of_a_connection_has_spare_bytes(node: Node) -> None:
    """Fields can be added without a new version, so that upgrades keep connections (rule 23)."""
    layout = layout_of(node, GOLDENS[1])
    for family in node.loaded:
        value = layout[family.label]["connections"]["value"]
        assert value["size"] == 128
        assert value[".spare"][1] >= 4

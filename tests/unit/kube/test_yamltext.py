# SPDX-License-Identifier: Apache-2.0
"""YAML means what it means to kubectl."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.kube.yamltext import MAX_DEPTH, load_document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01", "2026-01-01"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("10.96.0.10", "10.96.0.10"),
        ("None", "None"),
        ("0o17", "0o17"),
        ("017", 15),
        ("0x1F", 31),
        ("-0b11", -3),
        ("+1_000", 1000),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("on", True),
        ("Off", False),
        ("y", "y"),
        ("~", None),
        ("'80'", "80"),
        ("!!str 80", "80"),
        ("! 80", "80"),
        ("!!int 80", 80),
        ("=", "="),
        ("-", [None]),
        ("9" * 70, "9" * 70),
        ("0b12", "0b12"),
        ("|\n  a\n  b", "a\nb"),
    ],
)
def test_scalars(text: str, expected: object) -> None:
    """Words are read as go-yaml v2 reads them: no dates, nothing in base 60."""
    found = load_document(f"key: {text}" if text != "-" else "key:\n-")["key"]
    assert (found, type(found)) == (expected, type(expected))


def test_keys_are_strings_and_the_last_of_equal_ones_counts() -> None:
    """An object has JSON's keys; a duplicate replaces what stood before."""
    assert load_document("{80: a, on: b, x: 1, x: 2}") == {"80": "a", "on": "b", "x": 2}


def test_anchors_and_merges() -> None:
    """Aliases and << work; the mapping's own keys win, then the earlier source."""
    text = "a: &a {k: 1, j: 1}\nb: &b {k: 2, i: 2}\nc: {<<: [*a, *b], j: 3}\nd: *a"
    assert load_document(text)["c"] == {"k": 1, "j": 3, "i": 2}
    assert load_document(text)["d"] == {"k": 1, "j": 1}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: c: d", "line 2"),
        ("a: }", "line 1"),
        ("a: *x", "the anchor of"),
        ("a: &a [*a]", "the anchor of"),
        (BOMB, "aliases unfold"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "levels deep"),
        ("[" * 20_000, "levels deep"),
        ("? [a]\n: b", "a key is not a word"),
        ("a: !!binary eA==", "the tag !!binary"),
        ("a: !x y", "the tag !x"),
        ("a: \x07", "control characters"),
        ("a: 1\n--- b", "line 2: a second document"),
        ("a: {<<: 5}", "<< takes mappings"),
        (b"a: \xff", "UTF-8"),
    ],
)
def test_what_is_refused(text: str | bytes, why: str) -> None:
    """Each is a ValueError with the line, whatever the parser below makes of it."""
    with pytest.raises(ValueError, match=r"^line [0-9]+: ") as caught:
        load_document(text)
    assert why in str(caught.value)


def test_lines_are_those_of_the_file() -> None:
    """A chunk's errors count from where it begins in its file."""
    with pytest.raises(ValueError, match="line 12:"):
        load_document("---\na: }", first_line=11)


@pytest.mark.parametrize("text", ["", "\n", "# nothing", "---", "--- # nothing\n...\n"])
def test_nothing_is_none(text: str) -> None:
    """An empty document has no value."""
    assert load_document(text) is None


# Without digits, as PyYAML does not quote words such as 1e3, which are numbers to kubectl.
TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cc", "Cs", "Nd"), exclude_characters="<\ufeff"
    ),
    max_size=8,
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.dictionaries(TEXT, VALUES, min_size=1))
def test_what_is_dumped_reads_back(value: dict[str, Any]) -> None:
    """What PyYAML and json write for a value is read as that value."""
    assert load_document(json.dumps(value, ensure_ascii=False)) == value
    assert load_document(yaml.dump(value, Dumper=yaml.CSafeDumper)) == value


@given(st.text(alphabet="ab:-[]{}*&!|>'\"#%@`?,<= \n\t019.", max_size=60) | st.text(max_size=40))
def test_no_text_gives_another_error(text: str) -> None:
    """Any text gives a value or a ValueError."""
    try:
        load_document(text)
    except ValueError as error:
        assert str(error).startswith("line ")  # noqa: PT017 - both outcomes are right

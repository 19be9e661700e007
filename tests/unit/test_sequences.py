# SPDX-License-Identifier: Apache-2.0
"""Each of kube-proxy's multi-step behaviours has a hand-written test of its name."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.flows.load import KUBE_PROXY, FlowFile, read_flow_file, steps_of

TESTS = Path(__file__).resolve().parents[1]
LAYERS = ("datapath", "e2e")
# told in steps, too; they need no kernel
SECTIONS = ("healthcheck_server", "proxier_health")


def names_in(text: str) -> set[str]:
    """Return the names of a file's tests, as pytest finds them."""
    found = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    return {node.name for node in found if node.name.startswith("test_")}


def all_tests(*layers: str) -> set[str]:
    """Return the names of the tests in some layers: those that run programs in a kernel."""
    files = (path for layer in layers or LAYERS for path in (TESTS / layer).rglob("test_*.py"))
    return set().union(*(names_in(path.read_text()) for path in files))


def without_test(ids: Iterable[str], tests: set[str]) -> list[str]:
    """Return the sequences that have no test of their name."""
    return [one for one in ids if f"test_sequence_{one.replace('-', '_')}" not in tests]


def test_every_sequence_has_a_test(flow_file: FlowFile) -> None:
    """One that somebody adds fails here until its steps are written down as a test."""
    assert without_test(flow_file.sequences, all_tests()) == []


def test_every_section_of_steps_has_a_test() -> None:
    """And kube-proxy's own file has each of them."""
    tests = all_tests("unit")
    for section in SECTIONS:
        assert f"test_{section}" in tests
        assert steps_of(KUBE_PROXY, section)["steps"]


def test_there_are_sequences() -> None:
    """kube-proxy's own file has some, each once."""
    ids = read_flow_file(KUBE_PROXY).sequences
    assert len(ids) == len(set(ids)) == 11


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("def test_sequence_one_two() -> None: ...", []),
        ("def test_sequence_one() -> None: ...", ["one-two"]),
        ("def sequence_one_two() -> None: ...", ["one-two"]),
        ("# def test_sequence_one_two() -> None: ...", ["one-two"]),
    ],
)
def test_a_sequence_without_a_test_is_found(text: str, lacks: list[str]) -> None:
    """Only a test counts that pytest runs."""
    assert without_test(["one-two"], names_in(text)) == lacks

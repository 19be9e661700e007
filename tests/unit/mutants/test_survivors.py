# SPDX-License-Identifier: Apache-2.0
"""The reviewed list of survivors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.errors import ConfigError
from tests.mutants.mutants import Mutant, select
from tests.mutants.survivors import LIST, Review, in_scope, read_list, review

BPF = Path(__file__).resolve().parents[3] / "bpf"


def mutant(name: str, file: str = "x.c") -> Mutant:
    """Return a mutant with a name."""
    return Mutant(file, name.partition(":")[0], name, 0, 1, "", 1)


def test_every_listed_survivor_exists() -> None:
    """An explanation belongs to a comparison that there is: edits that lose it are noticed."""
    names = {(each.file, each.name) for each in select(BPF, [], "")}
    assert set(read_list(LIST)) - names == set()


def test_the_list_is_read(tmp_path: Path) -> None:
    """Reasons may have several lines."""
    path = tmp_path / "list.toml"
    path.write_text('["x.c"]\n"one: a -> negated" = """\nbecause\n  of b"""\n')
    assert read_list(path) == {("x.c", "one: a -> negated"): "because of b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["x.c"', "cannot be read"),
        ('"one: a -> negated" = "why"', "one: a -> negated is no table"),
        ('["x.c"]\n"one: a -> negated" = " "', "has no reason"),
        ('["x.c"]\n"one: a -> negated" = 1', "has no reason"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """No survivor is excused without a reason."""
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_list(path)


@pytest.mark.parametrize(
    ("files", "function", "whole", "expected"),
    [
        ([], "", True, "one two three"),
        (["x.c"], "", False, "one two"),
        (["x.c"], "two", False, "two"),
        ([], "three", True, "three"),
        (["z.c"], "", False, ""),
    ],
)
def test_the_scope_is_what_was_asked_for(
    files: list[str], function: str, whole: bool, expected: str
) -> None:
    """A run of one file or function says nothing about what is listed of others."""
    listed = {
        ("x.c", "one: a -> negated"): "why",
        ("x.c", "two: a -> negated"): "why",
        ("y.c", "three: a -> negated"): "why",
    }
    found = in_scope(listed, files, function, whole=whole)
    assert " ".join(name.partition(":")[0] for _, name in found) == expected


def test_survivors_are_compared_with_the_list() -> None:
    """An unlisted survivor, a listed one that was killed and one that is gone are told."""
    listed = [("x.c", name) for name in ("explained", "killed", "gone", "untried")]
    everything = [mutant(n) for n in ("explained", "killed", "new", "untried", "dead")]
    survived = {
        ("x.c", "explained"): True,
        ("x.c", "killed"): False,
        ("x.c", "new"): True,
        ("x.c", "dead"): False,
    }
    found = review(listed, everything, survived)
    assert found == Review((("x.c", "new"),), (("x.c", "killed"),), (("x.c", "gone"),))
    assert not found.agrees


def test_a_list_of_just_the_survivors_agrees() -> None:
    """Killed ones that are not listed and survivors that are leave nothing to say."""
    survived = {("x.c", "explained"): True, ("x.c", "dead"): False}
    everything = [mutant("explained"), mutant("dead")]
    assert review([("x.c", "explained")], everything, survived).agrees

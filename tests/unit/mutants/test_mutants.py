# SPDX-License-Identifier: Apache-2.0
"""The mutants of files: names that last, and a choice of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.errors import ConfigError
from tests.mutants.mutants import Mutant, mutants_of, select, sources
from tests.mutants.tokens import tokens

BPF = Path(__file__).resolve().parents[3] / "bpf"

TEXT = """
int one(int a)
{
	if (!a)
		return 0;
	return a == 1 || a == 1;
}

int two(int a)
{
	return a ? 1 : 2;
}
"""


def names(text: str) -> list[str]:
    """Return the names of a text's mutants."""
    return [mutant.name for mutant in mutants_of(text, "x.c")]


def test_names_number_the_same_in_one_function() -> None:
    """A name says function, comparison and change; only repetitions have numbers."""
    assert names(TEXT) == [
        "one: a -> negated",
        "one: a == 1 -> !=",
        "one: a == 1 || a == 1 -> &&",
        "one: a == 1 -> != #2",
        "two: a -> negated",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nint one", "/* new */\n\n\nint one"),
        ("\treturn a == 1 || a == 1;", "\treturn a == 1 ||\n\t       a /* or */ == 1;"),
        ("int two", "int zero(int b)\n{\n\treturn 2 * b;\n}\n\nint two"),
        ("? 1 : 2", "? 3 : 4"),
    ],
)
def test_names_survive_edits(old: str, new: str) -> None:
    """Other lines, layout and comments change no name."""
    assert names(TEXT.replace(old, new)) == names(TEXT)
    assert TEXT.replace(old, new) != TEXT


def test_lines_are_counted() -> None:
    """The line is for people who look for the place."""
    assert [mutant.line for mutant in mutants_of(TEXT, "x.c")] == [4, 6, 6, 6, 11]


def test_every_mutant_of_bpf_is_another_text() -> None:
    """Names tell all mutants of a file apart, and each is C with one change."""
    for file in sources(BPF):
        text = (BPF / file).read_text()
        mutants = mutants_of(text, file)
        assert len({mutant.name for mutant in mutants}) == len(mutants)
        changed = {mutant.apply(text) for mutant in mutants}
        assert len(changed) == len(mutants)
        assert text not in changed
        assert all(tokens(each, file) for each in changed)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with two C files, and others."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "y.h").write_text("int no(int a)\n{\n\treturn !a;\n}\n")
    (tmp_path / "README.md").write_text("a == b")
    (tmp_path / "x.c").write_text(TEXT)
    (tmp_path / "x.h").write_text(TEXT)
    return tmp_path


def chosen(mutants: list[Mutant]) -> set[tuple[str, str]]:
    """Return files and functions of mutants."""
    return {(mutant.file, mutant.function) for mutant in mutants}


def test_files_and_functions_are_selected(directory: Path) -> None:
    """Files may be named with a path; without any all are taken, those of subfolders never."""
    everything = {(file, name) for file in ("x.c", "x.h") for name in ("one", "two")}
    assert chosen(select(directory, [], "")) == everything
    assert chosen(select(directory, ["bpf/x.h"], "")) == {("x.h", "one"), ("x.h", "two")}
    assert chosen(select(directory, [], "two")) == {("x.c", "two"), ("x.h", "two")}


@pytest.mark.parametrize(
    ("files", "function", "words"),
    [
        (["z.c"], "", r"no .*z\.c: choose from x\.c, x\.h"),
        (["y.h"], "", r"no .*y\.h: choose"),
        (["x.c"], "three", "no function three .* in x.c: scripts/mutate --list"),
    ],
)
def test_what_there_is_not_is_refused(
    directory: Path, files: list[str], function: str, words: str
) -> None:
    """A misspelt name is never a run without mutants."""
    with pytest.raises(ConfigError, match=words):
        select(directory, files, function)

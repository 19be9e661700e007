# SPDX-License-Identifier: Apache-2.0
"""What a run tells, and its exit status."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.mutants.__main__ import conclude, main, project_files
from tests.mutants.campaign import Trial
from tests.mutants.mutants import Mutant
from tests.mutants.report import progress, table, write_json
from tests.mutants.trial import Outcome, Verdict

LISTED = {("x.c", "f: b -> negated"): "b is always so"}


def trial(name: str, outcome: Outcome, file: str = "x.c", by: str = "") -> Trial:
    """Return a trial of the function f's comparison."""
    return Trial(
        Mutant(file, "f", f"f: {name} -> negated", 0, 1, "", 7), Verdict(outcome, by), 1.25
    )


TRIALS = [
    trial("a", Outcome.KILLED, by="test_a.py::test_one"),
    trial("b", Outcome.SURVIVED),
    trial("c", Outcome.UNLOADABLE, "y.h"),
]


def test_a_trial_is_a_line() -> None:
    """The line says what became of which mutant, and who noticed."""
    line = "[3/9] 1.2 s killed (test_a.py::test_one): x.c:7 f: a -> negated"
    assert progress(TRIALS[0], 3, 9) == line


def test_the_table_counts_outcomes_by_file() -> None:
    """One line a file, and one for all."""
    assert [line.split() for line in table(TRIALS)][1:] == [
        ["x.c", "2", "1", "0", "0", "1"],
        ["y.h", "1", "0", "1", "0", "0"],
        ["all", "3", "1", "1", "0", "1"],
    ]


@pytest.mark.parametrize(
    ("trials", "status", "words"),
    [
        (TRIALS, 0, ["survived:", "x.c f: b -> negated", "b is always so"]),
        (TRIALS, 0, ["killed by loading:", "y.h f: c -> negated"]),
        ([*TRIALS, trial("d", Outcome.SURVIVED)], 1, ["SURVIVED, not", "x.c f: d -> negated"]),
        ([trial("b", Outcome.KILLED)], 1, ["KILLED, though", "x.c f: b -> negated"]),
        (TRIALS[:1], 1, ["GONE, though", "x.c f: b -> negated"]),
    ],
)
def test_the_status_says_whether_the_list_is_right(
    trials: list[Trial], status: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """1 where a survivor is not listed, and where a listed mutant was killed or is gone."""
    assert conclude(trials, [each.mutant for each in trials], LISTED) == status
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith(words[0]))
    assert lines[first + 1 : first + len(words)] == words[1:]


def test_results_are_written_whole(tmp_path: Path) -> None:
    """The file has every trial, and nothing else is left in its directory."""
    path = tmp_path / "out.json"
    write_json(path, TRIALS[:1], {})
    write_json(path, TRIALS, LISTED)
    written = json.loads(path.read_text())
    assert written["schema"] == "pyproxy.mutants/1"
    assert [(each["name"], each["outcome"], each["why"]) for each in written["mutants"]] == [
        ("f: a -> negated", "killed", ""),
        ("f: b -> negated", "survived", "b is always so"),
        ("f: c -> negated", "killed by loading", ""),
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """--list tries nothing."""
    assert main(["--list", "bpf/addr.h", "--function", "addr_equal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("addr.h:") and " addr_equal: " in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.h"], "there is no"),
        (["addr.h", "--out", "nowhere/out.json"], "no directory for nowhere/out.json"),
    ],
)
def test_wrong_usage_is_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is tried, and the status is 2."""
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_copy_has_what_a_commit_would(tmp_path: Path) -> None:
    """New files belong to it, ignored and removed ones do not."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in (".gitignore", "old", "new", "ignored"):
        (tmp_path / name).write_text("ignored\n")
    subprocess.run(["git", "-C", tmp_path, "add", "old", ".gitignore"], check=True)
    assert project_files(tmp_path) == [".gitignore", "new", "old"]
    (tmp_path / "old").unlink()
    assert project_files(tmp_path) == [".gitignore", "new"]

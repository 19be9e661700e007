# SPDX-License-Identifier: Apache-2.0
"""What a run tells: a line a mutant, a table a file, what needs a look, and JSON for the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.mutants.campaign import Trial
from tests.mutants.survivors import Name, Review
from tests.mutants.trial import Outcome

SCHEMA = "pyproxy.mutants/1"
_HEADINGS = ("file", "mutants", *(outcome.value for outcome in Outcome))


def progress(trial: Trial, number: int, total: int) -> str:
    """Return the line of one trial."""
    mutant, verdict = trial.mutant, trial.verdict
    by = f" ({verdict.by})" if verdict.by else ""
    return (
        f"[{number}/{total}] {trial.seconds:.1f} s {verdict.outcome.value}{by}: "
        f"{mutant.file}:{mutant.line} {mutant.name}"
    )


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of a table: how many of each file's mutants ended how."""
    counts: dict[str, Counter[Outcome]] = {}
    for trial in trials:
        counts.setdefault(trial.mutant.file, Counter())[trial.verdict.outcome] += 1
    total = sum(counts.values(), Counter[Outcome]())
    rows = [_HEADINGS, *(_row(file, counts[file]) for file in sorted(counts)), _row("all", total)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells])


def _row(file: str, counts: Counter[Outcome]) -> tuple[str, ...]:
    return (file, str(counts.total()), *(str(counts[outcome]) for outcome in Outcome))


def findings(trials: Sequence[Trial], review: Review, listed: Mapping[Name, str]) -> Iterator[str]:
    """Yield what to look at: each survivor with its reason, other ends than by a test, and
    where the list is wrong.
    """
    for outcome in (Outcome.UNLOADABLE, Outcome.HUNG, Outcome.SURVIVED):
        names = [(t.mutant.file, t.mutant.name) for t in trials if t.verdict.outcome is outcome]
        reasons = {name: listed.get(name, "") for name in names}
        explained = {name: why for name, why in reasons.items() if name not in review.unexplained}
        yield from _section(f"{outcome.value}:", explained)
    yield from _section(
        "SURVIVED, not in tests/mutants/survivors.toml (write a test, or the reason):",
        dict.fromkeys(review.unexplained, ""),
    )
    yield from _section(
        "KILLED, though in tests/mutants/survivors.toml (take it out):",
        dict.fromkeys(review.killed, ""),
    )
    yield from _section(
        "GONE, though in tests/mutants/survivors.toml (take it out, or write its new name):",
        dict.fromkeys(review.gone, ""),
    )


def _section(heading: str, entries: Mapping[Name, str]) -> Iterator[str]:
    if entries:
        yield ""
        yield heading
    for (file, name), why in entries.items():
        yield f"  {file} {name}"
        if why:
            yield f"      {why}"


def write_json(path: Path, trials: Sequence[Trial], listed: Mapping[Name, str]) -> None:
    """Write all trials; the file is there whole or as it was."""
    records = [
        {
            "file": trial.mutant.file,
            "function": trial.mutant.function,
            "line": trial.mutant.line,
            "name": trial.mutant.name,
            "outcome": trial.verdict.outcome.value,
            "by": trial.verdict.by,
            "seconds": round(trial.seconds, 1),
            "why": listed.get((trial.mutant.file, trial.mutant.name), ""),
        }
        for trial in trials
    ]
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps({"schema": SCHEMA, "mutants": records}, indent=1) + "\n")
    unfinished.replace(path)

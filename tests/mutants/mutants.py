# SPDX-License-Identifier: Apache-2.0
"""The mutants of bpf/: each file with one comparison changed, under a name that edits survive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import ConfigError
from tests.mutants.comparisons import changes
from tests.mutants.tokens import functions, tokens


class Mutant(NamedTuple):
    """One change of one file.

    `name` tells it from all others of its file: function, comparison, what becomes of it and,
    from the second of the same on, its number. Line numbers are no part of it.
    """

    file: str
    function: str
    name: str
    start: int
    end: int
    new: str
    line: int

    def apply(self, text: str) -> str:
        """Return the file's text, changed."""
        return text[: self.start] + self.new + text[self.end :]


def mutants_of(text: str, file: str) -> list[Mutant]:
    """Return all mutants of a C file, in the order of the text; raises ConfigError."""
    seen: Counter[str] = Counter()
    found = []
    for function in functions(tokens(text, file)):
        for change in changes(function.body, text):
            name = f"{function.name}: {change.shown} -> {change.becomes}"
            seen[name] += 1
            numbered = f"{name} #{seen[name]}" if seen[name] > 1 else name
            line = text.count("\n", 0, change.start) + 1
            found.append(
                Mutant(file, function.name, numbered, change.start, change.end, change.new, line)
            )
    return found


def sources(directory: Path) -> list[str]:
    """Return the names of the C files in a directory, not of those below it."""
    return sorted(path.name for path in directory.iterdir() if path.suffix in {".c", ".h"})


def select(directory: Path, files: Sequence[str], function: str) -> list[Mutant]:
    """Return the mutants of the named files (none: of all) and of one function ("": of all).

    Raises ConfigError for a file or a function that there is not.
    """
    names = sources(directory)
    wanted = [Path(file).name for file in files] or names
    for file in wanted:
        if file not in names:
            raise ConfigError(f"there is no {directory / file}", f"choose from {', '.join(names)}")
    texts = {file: (directory / file).read_text(encoding="utf-8") for file in wanted}
    chosen = [mutant for file, text in texts.items() for mutant in mutants_of(text, file)]
    if not function:
        return chosen
    inside = [mutant for mutant in chosen if mutant.function == function]
    if not inside:
        raise ConfigError(
            f"no function {function} with a comparison in {', '.join(wanted)}",
            "scripts/mutate --list shows what there is",
        )
    return inside

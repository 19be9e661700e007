# SPDX-License-Identifier: Apache-2.0
"""The reviewed list of mutants that no test can tell from the original: survivors.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.errors import ConfigError
from tests.mutants.mutants import Mutant

LIST = Path(__file__).with_name("survivors.toml")

Name: TypeAlias = tuple[str, str]  # a mutant's file and name


class Review(NamedTuple):
    """What a run says about the list; all empty: they agree.

    `unexplained` survived and are not listed, `killed` and `gone` are listed in vain.
    """

    unexplained: tuple[Name, ...]
    killed: tuple[Name, ...]
    gone: tuple[Name, ...]

    @property
    def agrees(self) -> bool:
        """Whether the survivors are the listed ones."""
        return not any(self)


def read_list(path: Path) -> dict[Name, str]:
    """Return why each listed mutant survives; raises ConfigError.

    The file has a table for each C file, of names of mutants and reasons.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "mend the file") from error
    listed = {}
    for file, reasons in tables.items():
        if not isinstance(reasons, dict):
            raise ConfigError(f"{path}: {file} is no table", 'write ["name of a C file"]')
        for name, why in reasons.items():
            if not isinstance(why, str) or not why.strip():
                raise ConfigError(f"{path}: {name} has no reason", "say why no test can tell")
            listed[file, name] = " ".join(why.split())
    return listed


def in_scope(
    listed: Mapping[Name, str], files: Iterable[str], function: str, *, whole: bool
) -> dict[Name, str]:
    """Return the part of the list that a run of these files decides on.

    `whole`: of all files, so that those of files that are gone belong to it; `function`: of one
    function only ("": of all).
    """
    chosen = set(files)
    return {
        (file, name): why
        for (file, name), why in listed.items()
        if (whole or file in chosen) and (not function or name.startswith(f"{function}: "))
    }


def review(
    listed: Iterable[Name], all_mutants: Iterable[Mutant], survived: Mapping[Name, bool]
) -> Review:
    """Compare the listed ones with what there is and with what was tried and survived or not."""
    names = set(listed)
    there = {(mutant.file, mutant.name) for mutant in all_mutants}
    return Review(
        unexplained=tuple(name for name, lives in survived.items() if lives and name not in names),
        killed=tuple(name for name, lives in survived.items() if not lives and name in names),
        gone=tuple(sorted(names - there)),
    )

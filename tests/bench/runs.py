# SPDX-License-Identifier: Apache-2.0
"""What scripts/bench has written, read back: one file is one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pyproxy.errors import ConfigError
from tests.bench.report import SCHEMA

WRITE_ONE = "give files that scripts/bench wrote (bench-results/bench-*.json)"


class Record(msgspec.Struct, frozen=True):
    """A figure of a run, as report.py writes it; what only the machine's reader needs is left."""

    name: str
    unit: str
    value: float
    interval95: tuple[float | None, float | None]
    samples: tuple[float, ...]
    target: str | None = None
    met: bool | None = None
    certain: bool | None = None


class Failure(msgspec.Struct, frozen=True):
    """A measure that was asked for and not taken."""

    measure: str
    reason: str


class _Head(msgspec.Struct, frozen=True):
    schema: str


class _File(msgspec.Struct, frozen=True):
    command: tuple[str, ...]
    started: str
    machine: dict[str, Any]
    extent: dict[str, Any]
    seconds: float
    figures: tuple[Record, ...]
    failures: tuple[Failure, ...] = ()
    version: str = "unknown"


@dataclass(frozen=True)
class Run:
    """One run: what it is called in a report, how and on what it was taken, and its figures."""

    label: str
    command: Sequence[str]
    started: str
    seconds: float
    version: str
    machine: Mapping[str, Any]
    extent: Mapping[str, Any]
    figures: Mapping[str, Record]
    failures: Sequence[Failure]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs in the order given; each is called by its file's name, or path where two agree.

    Raises ConfigError for a file that cannot be read or is no run of this schema.
    """
    stems = [path.stem for path in paths]
    labels = [
        stem if stems.count(stem) == 1 else str(path)
        for stem, path in zip(stems, paths, strict=True)
    ]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"{path} is given twice", "a run is compared with other runs")
    return [_read(path, label) for path, label in zip(paths, labels, strict=True)]


def _read(path: Path, label: str) -> Run:
    file = _decoded(path)
    figures = {figure.name: figure for figure in file.figures}
    if len(figures) != len(file.figures):
        raise ConfigError(f"{path} has two figures of one name", WRITE_ONE)
    for figure in file.figures:
        if not figure.samples:
            raise ConfigError(f"{path}: {figure.name} has no samples", WRITE_ONE)
    return Run(
        label, file.command, file.started, file.seconds, file.version,
        file.machine, file.extent, figures, file.failures,
    )  # fmt: skip


def _decoded(path: Path) -> _File:
    try:
        text = path.read_bytes()
        head = msgspec.json.decode(text, type=_Head)
        if head.schema != SCHEMA:
            raise ConfigError(
                f'{path} has the schema "{head.schema}"', f"this report reads {SCHEMA} alone"
            )
        return msgspec.json.decode(text, type=_File)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", WRITE_ONE) from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no run of scripts/bench ({error})", WRITE_ONE) from error

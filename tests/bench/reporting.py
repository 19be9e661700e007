# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench report`: puts runs side by side on a page of HTML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.bench.noise import FLOOR, changes
from tests.bench.page import page
from tests.bench.runs import read_runs


def main(argv: Sequence[str]) -> int:
    """Write the report; return 0, 1 where it cannot be written, 2 for a file that is no run."""
    arguments = parse(argv)
    floor = arguments.floor / 100
    try:
        runs = read_runs(arguments.runs)
        compared = [(run, changes(runs[0], run, floor)) for run in runs[1:]]
        _write(arguments.out, page(runs, compared, floor))
    except PyproxyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"written: {arguments.out}", file=sys.stderr)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; wrong ones end the process with status 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench report",
        description="Puts runs side by side and says which differences are larger than the noise.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN.json",
        help="what scripts/bench wrote; the others are compared with the first",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="by default %(default)s",
    )
    parser.add_argument(
        "--floor", type=_percent, default=FLOOR * 100, metavar="PERCENT",
        help="differences below it are noise, whatever the samples say (by default %(default)g)",
    )  # fmt: skip
    return parser.parse_args(argv)


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"a percentage from 0 to 100 is wanted, not {text}")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PyproxyError(
            f"{path} cannot be written ({error.strerror})", "choose another place by --out"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

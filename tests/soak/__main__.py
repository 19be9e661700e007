# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.soak`: soaks and reports; see scripts/soak."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.soak.report import print_report, write_json
from tests.soak.soak import MOST_RATE, Wanted, soak
from tests.soak.verdict import SHORTEST_S, complaints

DESCRIPTION = """\
Connections, bulk data and datagrams of all sizes on every path, while endpoints change ten times a
second. Counts every failure; fails if one was not an endpoint's that really died, if tables or
memory grow, or if the rates are not reached."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; wrong ones end the process with status 2, as argparse does it."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=DESCRIPTION)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="N", help="how long (default: 10)")
    length.add_argument("--seconds", type=float, metavar="N", help="the same in seconds")
    parser.add_argument(
        "--rate", type=float, default=MOST_RATE, metavar="N",
        help="connections a second on each path (200); a slow machine is asked for fewer",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the order of changes (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found here")
    arguments = parser.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 60 * (10.0 if arguments.minutes is None else arguments.minutes)
    if not arguments.seconds >= SHORTEST_S:
        parser.error(f"less than {SHORTEST_S} seconds do not show whether tables are flat")
    if not 1 <= arguments.rate <= MOST_RATE:
        parser.error(f"--rate is from 1 to {MOST_RATE:.0f}")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.parent}")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Soak; return the exit status."""
    arguments = parse(argv)
    wanted = Wanted(arguments.seconds, arguments.rate, arguments.seed)
    try:
        result = soak(wanted, say)
    except Exception as error:  # noqa: BLE001 - whatever it was, the soak has failed and says why
        say(f"error: {type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted; nothing is left behind.")
        return 130
    wrong = complaints(result)
    print_report(result, wrong)
    if arguments.json:
        write_json(arguments.json, result, wrong)
    return 1 if wrong else 0


def say(line: str) -> None:
    """Tell how far it is: on stderr, so that stdout has the tables alone."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

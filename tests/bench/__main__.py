# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench`: takes the measures and reports them; see scripts/bench."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.bench.bench import FULL, QUICK, Bench, placement
from tests.bench.build import build_tools, cache_dir
from tests.bench.catalogue import GROUPS, NAMES, QUICK_NAMES, Part, parts, selected
from tests.bench.figures import Figure
from tests.bench.machine import machine_facts, source_version
from tests.bench.report import print_table, report_json, write_json

BUSY_LOAD = 0.5


def main(argv: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit status.

    0: all was measured (with --check: and all targets were met), 1: not so, 2: wrong usage.
    """
    arguments = parse(argv)
    started = datetime.now(UTC)
    clock = time.monotonic()
    try:
        chosen = parts(selected(arguments.group, arguments.only, quick=arguments.quick))
        client_cpu, server_cpu = placement(os.sched_getaffinity(0), apart=arguments.apart)
        bench = Bench(
            tools=build_tools(cache_dir(os.environ)),
            extent=QUICK if arguments.quick else FULL,
            client_cpu=client_cpu,
            server_cpu=server_cpu,
            progress=say,
        )
    except PyproxyError as error:
        say(f"error: {error}")
        return error.exit_status
    run: dict[str, object] = {
        "command": ["scripts/bench", *argv],
        "started": started.isoformat(timespec="seconds"),
        "version": source_version(),
        "machine": machine_facts(),
        "extent": vars(bench.extent),
    }
    warn_of_load(os.getloadavg()[0])
    figures, failures = measure(bench, chosen)
    run["seconds"] = round(time.monotonic() - clock, 1)
    print_table(figures, sys.stdout)
    name = f"bench-{started:%Y%m%dT%H%M%SZ}.json"
    say(f"written: {write_json(arguments.out, name, report_json(figures, failures, run))}")
    for part, reason in failures.items():
        say(f"error: {part}: {reason}")
    return exit_status(figures, failures, check=arguments.check)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; wrong ones end the process with status 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures what pyproxy costs and how fast it follows.",
        epilog=f"Measures: {', '.join(NAMES)}. All take half an hour; --quick, two minutes of "
        f"{', '.join(QUICK_NAMES)}.",
    )
    parser.add_argument("group", nargs="?", default="all", choices=[*GROUPS, "all"])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer and shorter windows, and without --only fewer measures",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this measure; repeatable"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), metavar="DIR", help="where JSON goes"
    )
    parser.add_argument(
        "--apart", action="store_true", help="client and server on two CPUs, not on one"
    )
    parser.add_argument("--check", action="store_true", help="status 1 when a target is missed")
    return parser.parse_args(argv)


def measure(bench: Bench, chosen: Mapping[str, Part]) -> tuple[list[Figure], dict[str, str]]:
    """Take all measures; one that fails keeps its figures so far and does not stop the others."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name, part in chosen.items():
        try:
            # One by one: what an exception interrupts keeps the figures that it had.
            figures.extend(part(bench))
        except (PyproxyError, RuntimeError, TimeoutError, OSError) as error:
            failures[name] = str(error)
    return figures, failures


def exit_status(figures: Sequence[Figure], failures: Mapping[str, str], *, check: bool) -> int:
    """Return 1 for anything not measured and, with `check`, for a missed target."""
    missed = check and any(figure.met is False for figure in figures)
    return 1 if failures or missed else 0


def warn_of_load(load: float) -> None:
    """Say so when something else is running: it shows as wide intervals."""
    if load > BUSY_LOAD:
        say(f"warning: the load average is {load:.2f}: figures are best taken on an idle machine")


def say(line: str) -> None:
    """Tell how far it is: on stderr, so that stdout has the table alone."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

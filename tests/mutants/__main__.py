# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.mutants`: flips comparisons and reports what noticed; see scripts/mutate."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pyproxy.errors import ConfigError, PyproxyError
from tests.mutants import report, survivors
from tests.mutants.campaign import Campaign, Trial
from tests.mutants.mutants import Mutant, select
from tests.mutants.order import TABLE, Order
from tests.mutants.survivors import Name
from tests.mutants.trial import Outcome, Tree

CHECKOUT = Path(__file__).resolve().parents[2]
BPF = CHECKOUT / "bpf"
MOST_JOBS = 2  # more slow each other down until the tests' own waits end


def main(argv: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit status.

    0: the survivors are the listed ones, 1: not so, or the tests cannot run, 2: wrong usage.
    """
    arguments = parse(argv)
    try:
        mutants = select(BPF, arguments.files, arguments.function)
        listed = survivors.in_scope(
            survivors.read_list(survivors.LIST),
            {Path(file).name for file in arguments.files},
            arguments.function,
            whole=not arguments.files,
        )
        if arguments.list:
            show(mutants, listed)
            return 0
        if arguments.unlisted:
            # each that survives takes as long as all tests do
            mutants = [each for each in mutants if (each.file, each.name) not in listed]
            listed = {}
        return attempt(mutants, listed, arguments)
    except PyproxyError as error:
        say(f"error: {error}")
        return error.exit_status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; wrong ones end the process with status 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="scripts/mutate",
        description="Flips the comparisons in bpf/ one by one and looks which test notices.",
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these files of bpf/")
    parser.add_argument("--function", default="", metavar="NAME", help="only this C function")
    parser.add_argument("--list", action="store_true", help="show the mutants, try none")
    parser.add_argument(
        "--unlisted", action="store_true", help="pass over those that are known to survive"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, choices=range(1, MOST_JOBS + 1), help="mutants at a time"
    )
    parser.add_argument(
        "--first", type=int, metavar="N", help="only the N test files that are likely to notice"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every result as JSON")
    return parser.parse_args(argv)


def show(mutants: Sequence[Mutant], listed: dict[Name, str]) -> None:
    """Print the mutants, one a line; those that are known to survive are marked."""
    for mutant in mutants:
        known = " (listed as a survivor)" if (mutant.file, mutant.name) in listed else ""
        print(f"{mutant.file}:{mutant.line} {mutant.name}{known}")


def attempt(
    mutants: Sequence[Mutant], listed: dict[Name, str], arguments: argparse.Namespace
) -> int:
    """Try mutants, print what came of it and return the exit status."""
    out = arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"there is no directory for {out}", "make it first")
    # an end by either signal tidies up
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    done: list[Trial] = []
    try:
        run(mutants, listed, arguments, done)
    except KeyboardInterrupt:
        say(f"interrupted after {len(done)} of {len(mutants)} mutants")
        conclude(done, mutants, listed)
        return 128 + signal.SIGINT
    return conclude(done, mutants, listed)


def run(
    mutants: Sequence[Mutant],
    listed: dict[Name, str],
    arguments: argparse.Namespace,
    done: list[Trial],
) -> None:
    """Try mutants; what is done is in `done` and in the file at any time."""
    with tempfile.TemporaryDirectory(prefix="pyproxy-mutants-") as directory:
        files = project_files(CHECKOUT)
        places = [Path(directory, str(n)) for n in range(arguments.jobs)]
        trees = [Tree.copy(CHECKOUT, files, place) for place in places]
        campaign = Campaign(trees, Order.read(TABLE), most=arguments.first)
        say(f"{len(mutants)} mutants; the tests without any take {campaign.begin():.0f} s")
        with closing(campaign.results(mutants)) as results:
            for trial in results:
                done.append(trial)
                say(report.progress(trial, len(done), len(mutants)))
                if arguments.out is not None:
                    report.write_json(arguments.out, done, listed)


def conclude(done: Sequence[Trial], mutants: Sequence[Mutant], listed: dict[Name, str]) -> int:
    """Print the table and what needs a look; return the exit status."""
    survived = {
        (trial.mutant.file, trial.mutant.name): trial.verdict.outcome is Outcome.SURVIVED
        for trial in done
    }
    review = survivors.review(listed, mutants, survived)
    for line in (*report.table(done), *report.findings(done, review, listed)):
        print(line)
    return 0 if review.agrees else 1


def project_files(checkout: Path) -> list[str]:
    """Return the files of a checkout, new ones included and ignored ones not."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    names = sorted(set(listed.stdout.split("\0")))
    return [name for name in names if name and (checkout / name).is_file()]


def say(words: str) -> None:
    """Tell something beside the results."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

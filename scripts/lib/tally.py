# SPDX-License-Identifier: Apache-2.0
"""Counts the reports that the layers of scripts/test left, and says whether all is well.

The last line is `N passed, M failed, K skipped`. A failure is also: a skip that the reviewed list
does not name, a layer without a report, a layer in which no test ran, a test that was expected
in the virtual machine and did not run there, pytest ending in any way but "tests ran".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

UNIT_BUDGET_S = 10
NATIVE_BUDGET_S = 8 * 60
ALL_BUDGET_S = 25 * 60
ALL = "all"

# What pytest printed already is not repeated without end.
SHOWN_OF_A_LAYER = 20

# pytest's exit statuses: tests passed, tests failed, no test collected.
EXITS_OF_A_RUN = {0, 1, 5}


class Result(NamedTuple):
    """What became of one test or check. `outcome` is passed, failed or skipped."""

    layer: str
    name: str
    outcome: str
    message: str = ""


class Skip(NamedTuple):
    """A line of the reviewed list: this test may be skipped in this layer."""

    layer: str
    name: str


def read_skips(text: str) -> tuple[set[Skip], list[str]]:
    """Take the reviewed list; return what it allows and a sentence for each malformed line.

    A line is `LAYER TEST REASON...`; LAYER may be `*`; TEST without [parameters] covers all.
    """
    allowed: set[Skip] = set()
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3:
            wrong.append(f"tests/skips.txt line {number} is not LAYER TEST REASON: {line!r}")
            continue
        allowed.add(Skip(words[0], words[1]))
    return allowed, wrong


def is_reviewed(result: Result, allowed: Collection[Skip]) -> bool:
    """Say whether the reviewed list names this skipped test, with or without its parameters."""
    names = (result.name, result.name.partition("[")[0])
    return any(Skip(layer, name) in allowed for layer in (result.layer, "*") for name in names)


def node_id(case: ET.Element) -> str:
    """Return pytest's node id of a junit test case (family xunit1, which names the file)."""
    name, classname, file = (case.get(key, "") for key in ("name", "classname", "file"))
    if not file:
        return f"{classname}::{name}" if classname else name
    module = file.removesuffix(".py").replace("/", ".")
    classes = classname.removeprefix(module).strip(".")
    return "::".join([file, *(classes.split(".") if classes else []), name])


def result_of(layer: str, case: ET.Element) -> Result:
    """Return the result that a junit test case reports."""
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return Result(layer, node_id(case), outcome, found.get("message", ""))
    return Result(layer, node_id(case), "passed")


def read_report(layer: str, path: Path) -> list[Result]:
    """Return the results in a junit file; one that cannot be parsed is a failure."""
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - pytest wrote it, a moment ago
    except ET.ParseError as error:
        return [Result(layer, "report", "failed", f"cannot be parsed: {error}")]
    return [result_of(layer, case) for case in root.iter("testcase")]


def read_checks(layer: str, path: Path) -> Iterator[Result]:
    """Yield the results of the checks that are not pytest's: name, tab, outcome."""
    for line in path.read_text().splitlines():
        name, _, outcome = line.rpartition("\t")
        yield Result(layer, name, "passed" if outcome == "passed" else "failed")


def missing_tests(layer: str, expected: Path, ran: Iterable[Result]) -> list[Result]:
    """Return a failure for every expected test that did not run; all when none is expected."""
    names = expected.read_text().splitlines()
    if not names:
        return [Result(layer, "collection", "failed", "no test is marked for this layer")]
    done = {result.name for result in ran}
    return [Result(layer, name, "failed", "did not run") for name in names if name not in done]


def read_pytest(layer: str, folder: Path, *, selected: bool) -> list[Result]:
    """Return what pytest did in this layer, the ways in which it did not work included."""
    report, status = folder / f"{layer}.xml", folder / f"{layer}.exit"
    if not report.exists() or not status.exists():
        return [Result(layer, "report", "failed", "pytest left no report: it did not end well")]
    results = read_report(layer, report)
    code = int(status.read_text())
    failed = any(result.outcome == "failed" for result in results)
    if code not in EXITS_OF_A_RUN or (code == 1 and not failed):
        results.append(Result(layer, "pytest", "failed", f"exit status {code}"))
    if not results and not selected:
        results.append(Result(layer, "pytest", "failed", "no test ran"))
    return results


def read_layer(layer: str, folder: Path, *, selected: bool) -> list[Result]:
    """Return all results of a layer. `selected`: arguments chose some of the tests."""
    checks = folder / f"{layer}.checks"
    results = list(read_checks(layer, checks)) if checks.exists() else []
    if layer == "fresh":
        return results or [Result(layer, "report", "failed", "the layer left no report")]
    tests = read_pytest(layer, folder, selected=selected)
    expected = folder / f"{layer}.expected"
    if expected.exists() and (expected.stat().st_size or not selected):
        tests += missing_tests(layer, expected, tests)
    return results + tests


def judge(results: Iterable[Result], allowed: Collection[Skip]) -> Iterator[Result]:
    """Yield the results again; a skip that was not reviewed has become a failure."""
    for result in results:
        if result.outcome == "skipped" and not is_reviewed(result, allowed):
            message = f"skipped ({result.message}), and tests/skips.txt does not name it"
            yield result._replace(outcome="failed", message=message)
        else:
            yield result


def over_budget(seconds: dict[str, float]) -> list[str]:
    """Return a warning for each budget of time that the layers exceeded."""
    native = sum(seconds.get(layer, 0) for layer in ("unit", "datapath", "e2e"))
    spent = (
        ("unit", seconds.get("unit", 0), UNIT_BUDGET_S),
        ("unit, datapath and e2e", native, NATIVE_BUDGET_S),
        # two of them may run at once
        ("all layers", seconds.get(ALL, sum(seconds.values())), ALL_BUDGET_S),
    )
    return [
        f"warning: {what} took {took:.1f} s, the budget is {budget} s"
        for what, took, budget in spent
        if took > budget
    ]


def read_seconds(layers: Sequence[str], folder: Path) -> dict[str, float]:
    """Return how long each layer ran, without the installation; one that broke off is absent.

    How long it took until all had ended is there by the name ALL.
    """
    files = {layer: folder / f"{layer}.seconds" for layer in (*layers, ALL)}
    return {layer: float(file.read_text()) for layer, file in files.items() if file.exists()}


def count(results: Iterable[Result]) -> str:
    """Return the line that scripts/test ends with."""
    outcomes = [result.outcome for result in results]
    passed, failed, skipped = (outcomes.count(what) for what in ("passed", "failed", "skipped"))
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def print_remarkable(layer: str, results: Sequence[Result]) -> None:
    """Print what failed or was skipped in a layer, or the beginning of a long list."""
    for result in results[:SHOWN_OF_A_LAYER]:
        print(f"{result.outcome.upper()} [{layer}] {result.name}: {first_line(result.message)}")
    if len(results) > SHOWN_OF_A_LAYER:
        print(f"... and {len(results) - SHOWN_OF_A_LAYER} more in {layer}")


def first_line(message: str) -> str:
    """Return the first line of a message, if any."""
    return message.partition("\n")[0]


def print_all(layers: Sequence[str], results: list[Result], seconds: dict[str, float]) -> None:
    """Print every failure and skip, a line for each layer, the warnings, and the last line."""
    for layer in layers:
        print_remarkable(layer, [r for r in results if r.layer == layer and r.outcome != "passed"])
    for layer in layers:
        took = f"{seconds[layer]:.1f} s" if layer in seconds else "broke off"
        print(f"{layer}: {count(r for r in results if r.layer == layer)}, {took}")
    for warning in over_budget(seconds):
        print(warning)
    print(count(results))


def main(arguments: Sequence[str]) -> int:
    """Take the command line's arguments; return the exit status of scripts/test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--skips", type=Path, required=True)
    parser.add_argument("--selected", action="store_true")
    parser.add_argument("layers", nargs="+")
    options = parser.parse_args(arguments)
    allowed, wrong = read_skips(options.skips.read_text())
    first = options.layers[0]
    results = [Result(first, "tests/skips.txt", "failed", sentence) for sentence in wrong]
    for layer in options.layers:
        found = read_layer(layer, options.results, selected=options.selected)
        results += judge(found, allowed)
    if options.selected and not any("::" in result.name for result in results):
        results.append(Result(first, "pytest", "failed", "the arguments chose no test"))
    print_all(options.layers, results, read_seconds(options.layers, options.results))
    return 1 if any(result.outcome == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

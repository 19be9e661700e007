# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows: licences, lengths, where a test may lie, C's shape."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 400
PYTHON_FUNCTION_LINES = 40
C_FUNCTION_LINES = 60

APACHE = "SPDX-License-Identifier: Apache-2.0"
DUAL = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
# The licence itself, lists that other tools own, and formats that have no comments.
NO_SPDX_NAMES = {"LICENSE", ".gitignore", "py.typed"}
NO_SPDX_SUFFIXES = {".json", ".png", ".svg", ".http", ".pcap"}
SPDX_WITHIN_LINES = 5
# Length is a rule for code: not for tables of cases, lists that tools make, and documents.
NOT_CODE_SUFFIXES = {".yaml", ".yml", ".json", ".txt", ".md", ".http"}
# the folders that scripts/lib/test_layers.sh gives to pytest; the layer e2e has three
FOLDERS = ("unit", "datapath", "api", "vm", "e2e", "kernels", "image")

# From the first word at the left margin to the brace that opens the body.
C_FUNCTION = re.compile(r"^(?P<head>[a-zA-Z_][^;{}#=]*?\([^;{}]*\))\s*^\{$", re.MULTILINE)
C_ENTRY = re.compile(r"^int \w+\(struct (bpf_sock_addr|bpf_sock|__sk_buff|xdp_md) \*\w+\)$")
FAMILY_TEST = re.compile(r"^\s*#\s*(?:el)?if\w*\b.*\bFAMILY\b|\bFAMILY\s*[=!<>]=?", re.MULTILINE)


class Function(NamedTuple):
    """A function: where it starts, how it is declared (C: without line breaks), its lines."""

    where: str
    declared: str
    lines: int


@cache
def project_files() -> tuple[str, ...]:
    """Return the files of the checkout, new ones included and ignored ones not."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file())


def texts(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the project's files with one of the suffixes (none: every text)."""
    for name in project_files():
        if not suffixes or name.endswith(suffixes):
            try:
                yield name, (ROOT / name).read_text()
            except UnicodeDecodeError:
                continue


def python_functions(name: str, text: str) -> Iterator[Function]:
    """Yield the functions of a Python file, decorators not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(f"{name}:{node.lineno}", node.name, lines)


def c_functions(name: str, text: str) -> Iterator[Function]:
    """Yield the functions of a C file in the kernel's style: braces of bodies at the margin."""
    for found in C_FUNCTION.finditer(text):
        end = text.find("\n}", found.end())
        lines = text[found.start() : end].count("\n") + 2
        line = text[: found.start()].count("\n") + 1
        yield Function(f"{name}:{line}", " ".join(found["head"].split()), lines)


def bpf_functions() -> list[Function]:
    """Return all C functions in bpf/ but those of the stub headers."""
    return [
        function
        for name, text in texts(".c", ".h")
        if name.startswith("bpf/") and not name.startswith("bpf/include/")
        for function in c_functions(name, text)
    ]


def needs_spdx(name: str) -> bool:
    """Say whether a file can and must name its licence."""
    path = Path(name)
    return path.name not in NO_SPDX_NAMES and path.suffix not in NO_SPDX_SUFFIXES


def is_code(name: str) -> bool:
    """Say whether a file is read as code, so that its length counts."""
    path = Path(name)
    return path.name not in NO_SPDX_NAMES and path.suffix not in NOT_CODE_SUFFIXES


def licence_of(name: str) -> str:
    """Return the SPDX line that a file must have."""
    return DUAL if name.startswith("bpf/") else APACHE


def test_every_file_names_its_licence() -> None:
    """The first lines of every file hold its SPDX line; bpf/ is dual licensed."""
    wrong = [
        name
        for name, text in texts()
        if needs_spdx(name)
        and licence_of(name) not in "\n".join(text.splitlines()[:SPDX_WITHIN_LINES])
    ]
    assert wrong == []


def test_files_are_short() -> None:
    """No file of code, in any language, has 400 lines or more."""
    assert [
        f"{name}: {lines} lines"
        for name, text in texts()
        if is_code(name) and (lines := text.count("\n")) >= FILE_LINES
    ] == []


def test_python_functions_are_short() -> None:
    """No Python function has 40 lines or more."""
    functions = [f for name, text in texts(".py") for f in python_functions(name, text)]
    assert functions
    assert [f for f in functions if f.lines >= PYTHON_FUNCTION_LINES] == []


def test_c_functions_are_short() -> None:
    """No C function has 60 lines or more."""
    functions = [f for name, text in texts(".c", ".h") for f in c_functions(name, text)]
    assert functions
    assert [f for f in functions if f.lines >= C_FUNCTION_LINES] == []


def test_c_functions_are_inlined() -> None:
    """All C functions are static __always_inline (bcc has no other), but entry points in *.c."""
    functions = bpf_functions()
    assert functions
    assert [
        f
        for f in functions
        if not f.declared.startswith("static __always_inline ")
        and not (".c:" in f.where and C_ENTRY.match(f.declared))
    ] == []


def test_five_headers_know_the_family() -> None:
    """One C source serves both families: only these five headers test FAMILY."""
    knowing = {name for name, text in texts(".c", ".h") if FAMILY_TEST.search(text)}
    assert knowing == {"bpf/addr.h", "bpf/family.h", "bpf/headers.h", "bpf/icmp.h", "bpf/route.h"}


def test_every_test_is_in_a_layer() -> None:
    """scripts/test runs these folders: a test elsewhere would never run."""
    lost = [
        name
        for name, _ in texts(".py")
        if Path(name).name.startswith("test_")
        and not name.startswith(tuple(f"tests/{layer}/" for layer in FOLDERS))
    ]
    assert lost == []


@pytest.mark.parametrize(
    "line",
    ["#if FAMILY == 4", "#elif FAMILY == 6", "# ifdef FAMILY", "\tif (FAMILY == 6)", "FAMILY!=4"],
)
def test_a_test_of_the_family_is_found(line: str) -> None:
    """Every way of asking for the family is seen."""
    assert FAMILY_TEST.search(line)


@pytest.mark.parametrize("line", ["#define ETH_P_FAMILY 2", "#if ADDR_WORDS == 4", "/* FAMILY */"])
def test_other_words_are_no_test_of_the_family(line: str) -> None:
    """Names that contain the word, and comments, are not taken for a test."""
    assert not FAMILY_TEST.search(line)


def test_a_c_function_is_measured() -> None:
    """Declarations over two lines, nested braces and prototypes are told apart."""
    text = (
        "int a(int b);\nstatic int c(int d,\n\t int e)\n{\n\tif (d) {\n\t}\n}\nint f(void)\n{\n}\n"
    )
    assert list(c_functions("x.c", text)) == [
        Function("x.c:2", "static int c(int d, int e)", 6),
        Function("x.c:8", "int f(void)", 3),
    ]

# SPDX-License-Identifier: Apache-2.0
"""Who may import what: the packages form one line, and each knows only what is left of it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Left to right; packages of one row may not know each other, but for those named in MAY_SEE.
ORDER = (
    {"model", "tables", "errors", "meters"},
    {"plan"},
    {"sync"},
    {"kube"},
    {"kernel"},
    {"serve"},
    {"agent", "cli"},
)
# model, tables and errors are one vocabulary; the commands start the agent.
MAY_SEE = {
    "tables": {"model", "errors"},
    "model": {"errors"},
    "cli": {"agent"},
}
# Read by both the agent and the commands, and by packaging: the version alone.
ENTRY_FILES = {"__init__", "__main__"}

# Which packages may import a library that isn't Python's own; ctypes is as good as one.
LIBRARIES = {
    "bcc": {"kernel"},
    "pyroute2": {"kernel"},
    "ctypes": {"kernel"},
    "msgspec": {"kube"},
    "yaml": {"kube"},
    "inotify_simple": {"kube"},
    "kubernetes": {"kube"},
    "urllib3": {"kube"},
    "prometheus_client": {"serve"},
    "h11": {"serve"},
    "click": {"cli", "__main__"},
    "rich": {"cli", "__main__"},
}


class Import(NamedTuple):
    """One import: the file (relative to the root), its line, and the full name imported."""

    file: str
    line: int
    name: str

    @property
    def package(self) -> str:
        """Return the box of the drawing that the importing file is in."""
        return box_of(self.file.removesuffix(".py").replace("/", "."))


def box_of(module: str) -> str:
    """Return the box that a module of pyproxy belongs to: the second part of its name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def absolute(node: ast.ImportFrom, file: str) -> str:
    """Return the absolute name that `from ... import` reads from."""
    if node.level == 0:
        return node.module or ""
    parents = file.split("/")[: -node.level]
    return ".".join([*parents, *([node.module] if node.module else [])])


def imports_in(text: str, file: str) -> Iterator[Import]:
    """Yield every import in a file's text, those inside functions and blocks included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, file)
            # `from pyproxy import plan` names its target in the list.
            names = [alias.name for alias in node.names] if base == "pyproxy" else [""]
            for name in names:
                yield Import(file, node.lineno, f"{base}.{name}".rstrip("."))


def allowed_boxes(package: str) -> set[str]:
    """Return the boxes that a box may import: itself, those left of it, and MAY_SEE."""
    row = next(index for index, boxes in enumerate(ORDER) if package in boxes)
    return {package}.union(*ORDER[:row], MAY_SEE.get(package, set()))


def complaint(found: Import) -> str:
    """Return what is wrong with an import, or nothing."""
    where = f"{found.file}:{found.line} imports {found.name}"
    top = found.name.partition(".")[0]
    if top == "pyproxy":
        target = box_of(found.name)
        free = found.package in ENTRY_FILES or target == "__version__" or target in ENTRY_FILES
        wrong = not free and target not in allowed_boxes(found.package)
        return f"{where}: {found.package} may not know {target}" if wrong else ""
    if top in LIBRARIES:
        wrong = found.package not in LIBRARIES[top]
        return f"{where}: only {sorted(LIBRARIES[top])} may" if wrong else ""
    return "" if top in sys.stdlib_module_names else f"{where}: LIBRARIES does not name {top}"


def all_imports() -> list[Import]:
    """Return every import in pyproxy/."""
    return [
        found
        for path in sorted((ROOT / "pyproxy").rglob("*.py"))
        for found in imports_in(path.read_text(), str(path.relative_to(ROOT)))
    ]


def test_every_import_goes_left() -> None:
    """A package imports only what is left of it, and only its own libraries."""
    imports = all_imports()
    assert imports
    assert [wrong for found in imports if (wrong := complaint(found))] == []


def test_every_module_is_in_the_order() -> None:
    """A new module or package of pyproxy needs a place in the order."""
    modules = {path.stem for path in (ROOT / "pyproxy").iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in (ROOT / "pyproxy").glob("*/*.py")}
    assert (modules | packages) - ENTRY_FILES <= set().union(*ORDER)


def test_one_file_imports_bcc() -> None:
    """Only the loader's compiler knows bcc: the agent must never hold LLVM in its memory."""
    files = {found.file for found in all_imports() if found.name.partition(".")[0] == "bcc"}
    assert files == {"pyproxy/kernel/compiler.py"}


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("pyproxy/plan/x.py", "from pyproxy.kube import events", "pyproxy.kube"),
        ("pyproxy/plan/x.py", "def f():\n    import yaml", "yaml"),
        ("pyproxy/plan/x.py", "from ..kernel.maps import Map", "pyproxy.kernel.maps"),
        ("pyproxy/plan/x.py", "from pyproxy import model, sync", "pyproxy.sync"),
        ("pyproxy/sync/x.py", "import pyproxy.kernel.maps", "pyproxy.kernel.maps"),
        ("pyproxy/agent/x.py", "from pyproxy.cli import run", "pyproxy.cli"),
        ("pyproxy/model.py", "from pyproxy.tables import Table", "pyproxy.tables"),
        ("pyproxy/agent/x.py", "import ctypes.util", "ctypes.util"),
        ("pyproxy/kube/x.py", "import requests", "requests"),
    ],
)
def test_a_wrong_import_is_found(file: str, text: str, name: str) -> None:
    """Imports to the right, and foreign libraries, are seen wherever and however they stand."""
    wrong = [found.name for found in imports_in(text, file) if complaint(found)]
    assert wrong == [name]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproxy/plan/x.py", "from pyproxy import __version__, model\nimport heapq"),
        ("pyproxy/plan/x.py", "from .other import one\nfrom pyproxy.tables import Slot"),
        ("pyproxy/cli/x.py", "import click\nfrom pyproxy.agent.run import run"),
        ("pyproxy/kernel/x.py", "import ctypes\nfrom pyproxy.kube import events"),
        ("pyproxy/__main__.py", "from pyproxy.cli import main"),
    ],
)
def test_a_right_import_is_allowed(file: str, text: str) -> None:
    """Imports to the left, of the own package, and of the package's libraries are right."""
    assert [found for found in imports_in(text, file) if complaint(found)] == []

# SPDX-License-Identifier: Apache-2.0
"""How commands print: one JSON object and nothing else, or tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(command: str, answer: dict[str, Any]) -> None:
    """Print an answer as one JSON object whose first key is the schema."""
    print(json.dumps({"schema": f"pyproxy.{command}/1", **answer}))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; without a terminal it is as wide as its content."""
    from rich.console import Console  # noqa: PLC0415 - JSON output needs no rich
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    console.print()


def print_lines(lines: Iterable[str]) -> None:
    """Print plain lines."""
    for line in lines:
        print(line)

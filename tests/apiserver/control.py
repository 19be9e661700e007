# SPDX-License-Identifier: Apache-2.0
"""The control socket of a server that is a process of its own.

A unix socket by path is reachable from every network namespace. A line is
`{"call": "delete", "with": {"kind": "Service", "namespace": "a", "name": "b"}}`, the answer is
`{"result": ...}` or `{"error": "a sentence"}`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.apiserver.channel import reply_line
from tests.apiserver.commands import Commands

# Ten thousand objects may be put by one line.
LINE_BYTES = 1 << 28


async def serve_control(commands: Commands, path: Path) -> asyncio.Server:
    """Listen at `path` for commands; who sees it there is answered."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await _reply(commands, line))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    # a socket has its name before it listens
    begun = path.with_name(f"{path.name}.new")
    server = await asyncio.start_unix_server(converse, str(begun), limit=LINE_BYTES)
    begun.rename(path)
    return server


async def _reply(commands: Commands, line: bytes) -> bytes:
    try:
        asked: dict[str, Any] = json.loads(line)
        result = await commands.call(asked["call"], asked.get("with", {}))
    except Exception as error:  # noqa: BLE001 - whatever it was, the test is to read it
        return reply_line(None, error)
    return reply_line(result)

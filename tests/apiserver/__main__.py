# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.apiserver --listen ADDRESS:PORT --control SOCKET`: a process of its own.

It lives where it is started (a network namespace, say), prints its URL once it listens, and ends
by SIGTERM, SIGINT, or when its standard input closes if --until-stdin-closes is given.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.apiserver.commands import opened
from tests.apiserver.control import serve_control
from tests.apiserver.settings import Settings


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of 192.0.2.1:6443 or [2001:db8::1]:6443; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is no address: give HOST:PORT, and [HOST]:PORT for IPv6")
    return host.strip("[]"), int(port)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; ends with status 2 and usage where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--control", type=Path, required=True, metavar="SOCKET")
    parser.add_argument("--name", action="append", default=[], help="of the certificate, too")
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--second-s", type=float, default=1.0, help="a second of the protocol")
    parser.add_argument("--until-stdin-closes", action="store_true")
    parsed = parser.parse_args(arguments)
    try:
        parsed.host, parsed.port = parse_listen(parsed.listen)
    except ValueError as error:
        parser.error(str(error))
    return parsed


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    settings = Settings(
        host=arguments.host,
        port=arguments.port,
        names=("localhost", *arguments.name),
        tls=not arguments.plain,
        second_s=arguments.second_s,
    )
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    commands = await opened(settings)
    try:
        control = await serve_control(commands, arguments.control)
        if arguments.until_stdin_closes:
            loop.add_reader(sys.stdin.fileno(), over.set)
        print((await commands.call("address", {}))["url"], flush=True)
        await over.wait()
        control.close()
    finally:
        arguments.control.unlink(missing_ok=True)
        await commands.close()


def main() -> None:
    """Parse the command line and serve; status 1 with a sentence where that can't be."""
    arguments = parse_arguments(sys.argv[1:])
    try:
        asyncio.run(serve(arguments))
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: no server at {arguments.listen}: {error}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's flags as options of `pyproxy run` (parity A18), taken as pflag takes them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

import pyproxy


class Text(click.ParamType[str]):
    """A flag's text: pflag knows `-v=2`, where click leaves the `=` in it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, _: click.Context | None) -> str:
        """Return the text."""
        is_short = param is not None and any(len(each) == 2 for each in param.opts)
        return str(value).removeprefix("=") if is_short else str(value)


class ProxyCommand(click.Command):
    """A command with kube-proxy's flags beside its own; other commands need not read them."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all options."""
        *own, help_option = super().get_params(ctx)
        return [*own, *_actions(), *_flags(), help_option]


@functools.cache
def _flags() -> tuple[click.Option, ...]:
    from pyproxy.kube.proxyflags import BOOLEANS, FLAGS  # noqa: PLC0415 - as the class says

    return tuple(
        _option(name, flag.help, needs_value=name not in BOOLEANS) for name, flag in FLAGS.items()
    )


def _option(name: str, words: str, *, needs_value: bool) -> click.Option:
    names = ("-v", "--v") if name == "v" else (f"--{name}",)
    shown: dict[str, Any] = {"help": words or None, "hidden": not words}
    if needs_value:
        return click.Option(names, type=Text(), **shown)
    # true without one
    return click.Option(names, type=Text(), is_flag=False, flag_value="true", **shown)


@functools.cache
def _actions() -> tuple[click.Option, ...]:
    return (
        click.Option(
            ["--write-config-to"],
            type=click.Path(path_type=Path),
            help="Write the configuration as a file of kube-proxy's, and end.",
        ),
        click.Option(["--init-only"], is_flag=True, help="Do what needs all rights, and end."),
        click.Option(["--cleanup"], is_flag=True, help="As 'pyproxy cleanup'."),
        click.Option(
            ["--version"],
            is_flag=False,
            flag_value="true",
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Print the version, and end.",
        ),
    )


def _version(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value in (None, "false"):
        return
    click.echo(f"pyproxy, version {pyproxy.__version__}")
    context.exit()

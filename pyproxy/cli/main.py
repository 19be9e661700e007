# SPDX-License-Identifier: Apache-2.0
"""The command line: names, options and exit statuses; what commands do is beside this file.

Exit status of every command: 0 done or healthy, 1 failed or unhealthy, 2 wrong usage,
3 unknown (nothing loaded, maps unreadable).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import pyproxy
from pyproxy.cli.options import cache_dir, json_output, node_roots, output
from pyproxy.cli.proxyflags import ProxyCommand
from pyproxy.errors import PyproxyError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pyproxy.__version__, "--version")
def cli() -> None:
    """kube-proxy's job done by eBPF."""


# as kube-proxy's, whose flags may have underscores
@cli.command(
    cls=ProxyCommand,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
@click.pass_context
@click.option("--config", type=click.Path(path_type=Path), help="KubeProxyConfiguration v1alpha1.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="How to reach the API server.")
@click.option("--master", help="The API server's URL, instead of what --kubeconfig says.")
@click.option("--manifests", type=click.Path(path_type=Path), help="Directory of manifests.")
@click.option("--devices", help="Only devices whose names match, shell patterns with commas.")
@click.option(
    "--socket-translation",
    type=click.Choice(["all", "host"]),
    help="Translate sockets of pods and node (all, the default), or of the node alone (host).",
)
@click.option(
    "--pyproxy-config",
    type=click.Path(path_type=Path),
    help="PyproxyConfiguration v1alpha1: what has no place in --config.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Where another agent runs: prepare everything, and take over when it ends.",
)
@click.option(
    "--probe-socket",
    type=click.Path(path_type=Path),
    help="Where 'pyproxy probe' asks this very agent.",
)
@node_roots
@cache_dir
def run(context: click.Context, **flags: Any) -> int:
    """Serve this node's Services until SIGTERM; what is loaded stays when the agent ends.

    kube-proxy's other flags are taken, too: without --config those that have a meaning count.
    """
    if flags.pop("cleanup"):
        from pyproxy.cli import cleanup as command  # noqa: PLC0415 - other commands need none of it

        roots = (flags["bpffs_root"], flags["run_dir"], flags["cache_dir"])
        return command.clean(*roots, force=False)
    from pyproxy.cli.run import run_agent  # noqa: PLC0415 - as above

    run_agent({name: value if _is_given(context, name) else None for name, value in flags.items()})
    return 0


def _is_given(context: click.Context, name: str) -> bool:
    """Tell an option from a default, which a file may replace."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


@cli.command()
@output
@node_roots
def status(output_format: str, bpffs_root: Path, run_dir: Path, **_: Any) -> int:
    """What this node does: health, programs, maps, last sync, what is wrong and what to do."""
    from pyproxy.cli import status as command  # noqa: PLC0415 - as above

    return command.show(bpffs_root, run_dir, as_json=json_output(output_format))


@cli.command()
@output
@node_roots
def services(output_format: str, bpffs_root: Path, **_: Any) -> int:
    """Frontends with their backends, from the maps; works with no agent running."""
    from pyproxy.cli import services as command  # noqa: PLC0415 - as above

    return command.show(bpffs_root, as_json=json_output(output_format))


@cli.command()
@output
@click.option("--config", type=click.Path(path_type=Path), help="Is this file right, too?")
@click.option("--pyproxy-config", type=click.Path(path_type=Path), help="The same.")
@node_roots
def check(
    output_format: str, config: Path | None, pyproxy_config: Path | None, **roots: Any
) -> int:
    """Can this node run it? Every needed kernel feature, probed, each with its remedy."""
    from pyproxy.cli import check as command  # noqa: PLC0415 - as above

    files = command.Files(config, pyproxy_config)
    as_json = json_output(output_format)
    return command.show(roots["cgroup_root"], roots["bpffs_root"], files, as_json=as_json)


@cli.command()
@click.argument("what", type=click.Choice(["ready", "live"]), default="ready")
@click.option(
    "--probe-socket",
    type=click.Path(path_type=Path),
    required=True,
    help="As 'pyproxy run' has it.",
)
def probe(what: str, probe_socket: Path) -> int:
    """Ask this very agent: is it ready (synced, or prepared to take over), or live at least.

    `status` and /healthz are about the node, whoever serves it.
    """
    from pyproxy.cli import probe as command  # noqa: PLC0415 - as above

    return command.ask(probe_socket, what)


@cli.command()
@click.option("--force", is_flag=True, help="Even while an agent runs.")
@click.option("--kube-proxy", is_flag=True, help="Remove kube-proxy's rules, nothing of ours.")
@node_roots
@cache_dir
def cleanup(
    force: bool, kube_proxy: bool, bpffs_root: Path, run_dir: Path, cache_dir: Path, **_: Any
) -> int:
    """Detach and unpin everything; nothing of anybody else's is touched."""
    from pyproxy.cli import cleanup as command  # noqa: PLC0415 - as above

    if kube_proxy:
        return command.clean_kube_proxy(run_dir)
    return command.clean(bpffs_root, run_dir, cache_dir, force=force)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (None: the process's); return the exit status.

    What an operator can bring about ends in one sentence, never in a traceback.
    """
    try:
        status = int(cli.main(arguments, prog_name="pyproxy", standalone_mode=False) or 0)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PyproxyError as error:
        print(f"pyproxy: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        # a full disk, a reader that has gone: what was to be said is not, so this is no success
        sys.stdout = None
        where = f"{error.filename}: " if error.filename else ""
        print(f"pyproxy: {where}{error.strerror}", file=sys.stderr)
        return 1
    return status

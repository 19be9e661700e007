# SPDX-License-Identifier: Apache-2.0
"""Taking everything of ours out of the kernel, and nothing of anybody else's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from pyproxy.kernel import libbpf, reserved
from pyproxy.kernel.clsact import OWNED
from pyproxy.kernel.devices import devices
from pyproxy.kernel.entries import Entries
from pyproxy.kernel.lock import LOCK
from pyproxy.kernel.pins import remove_tree, versions


def detach_and_unpin(root: Path, run_dir: Path) -> int:
    """Detach all programs and unpin everything below a bpffs root; return how many pins went.

    Layouts of other versions go too. Links end with their pins, filters are deleted.
    """
    if not libbpf.tcx_exists():
        present = devices()
        Entries(root, {}, run_dir, tcx=False).detach(present)
    gone = forget_layouts(versions(root))
    with contextlib.suppress(OSError):
        root.rmdir()
    return gone


def forget_layouts(layouts: Iterable[Path]) -> int:
    """Detach and unpin what is in these directories; return how many pins went."""
    return sum(map(_remove, layouts))


def forget_run_dir(run_dir: Path) -> None:
    """Remove what agents leave in their run-dir, and the run-dir if nothing else is in it."""
    for name in (OWNED, LOCK, "state.json", "state.json.new"):
        (run_dir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run_dir.rmdir()


def _remove(version: Path) -> int:
    pins = _pins(version)
    reserved.give_back(version / "shared")
    # sockets first stop being translated, then what translates them goes
    for links in (*sorted(version.glob("*/links")), version / "devices"):
        remove_tree(links)
    remove_tree(version)
    return len(pins)


def _pins(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]

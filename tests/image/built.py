# SPDX-License-Identifier: Apache-2.0
"""The image under test: its root file system, and what it says about how it is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

ROOT, CONFIG = "PYPROXY_IMAGE_ROOT", "PYPROXY_IMAGE_CONFIG"


class Image(NamedTuple):
    """`root` is where it is mounted, `config` the part `config` of its OCI description."""

    root: Path
    config: dict[str, Any]

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """What is started, without its arguments."""
        return tuple(self.config["Entrypoint"])

    @property
    def environment(self) -> tuple[str, ...]:
        """Its variables as NAME=VALUE."""
        return tuple(self.config["Env"])

    @property
    def packages(self) -> Path:
        """Where Python's packages are."""
        return next(self.root.glob("opt/pyproxy/lib/python3*/site-packages"))

    @property
    def bytes(self) -> int:
        """The size of all of its files, each once."""
        found = (path.lstat() for path in self.root.rglob("*"))
        return sum({each.st_ino: each.st_size for each in found}.values())


def built() -> Image | None:
    """Return the image that scripts/test has built, None if it has not."""
    root, config = os.environ.get(ROOT), os.environ.get(CONFIG)
    if not root or not config:
        return None
    described = json.loads(Path(config).read_text(encoding="utf-8"))
    return Image(Path(root), described["OCIv1"]["config"])

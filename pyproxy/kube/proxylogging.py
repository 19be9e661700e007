# SPDX-License-Identifier: Apache-2.0
"""`logging` of KubeProxyConfiguration: what is logged, and how (parity A18.8, A19.8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyproxy.kube.configtypes import FieldType, is_block
from pyproxy.kube.configwalk import Walk


class LogSettings(NamedTuple):
    """What is logged and how.

    `vmodule` has verbosities of their own for modules, by patterns of their file's name without
    suffix; the first that fits counts.
    """

    json: bool = False
    verbosity: int = 0
    vmodule: tuple[tuple[str, int], ...] = ()


def _is_vmodule(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_vmodule_item, value))


def _is_vmodule_item(item: Any) -> bool:
    found = dict(item.pairs) if is_block(item) else {}
    pattern, verbosity = found.get("filePattern"), found.get("verbosity")
    is_number = isinstance(verbosity, int) and not isinstance(verbosity, bool) and verbosity >= 0
    is_pattern = isinstance(pattern, str) and bool(pattern) and not {",", "="} & set(pattern)
    return is_number and is_pattern and len(found) == 2


VMODULE = FieldType("a list of {filePattern: NAME, verbosity: NUMBER}", _is_vmodule)


def log_settings(found: Walk) -> LogSettings:
    """Return what a file or flags say of logging."""
    items = (dict(item.pairs) for item in found.values.get("logging.vmodule", ()))
    return LogSettings(
        json=found.text("logging.format") == "json",
        verbosity=found.values.get("logging.verbosity", 0),
        vmodule=tuple((item["filePattern"], item["verbosity"]) for item in items),
    )

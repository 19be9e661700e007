# SPDX-License-Identifier: Apache-2.0
"""Configuration files against a table of their fields: what was found, odd and wrong, in one go.

As kube-proxy does with its own (parity A19.1), unknown and duplicate fields are named and passed
over, so a file for another release works; a wrong type or value is fatal, all of them together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pyproxy.errors import ConfigError
from pyproxy.kube.configtypes import MAPPING, Block, FieldType, is_block
from pyproxy.kube.manifests import read_file
from pyproxy.kube.yamltext import load_document

_Value = TypeVar("_Value")


class BadFileError(ConfigError):
    """What a file holds is wrong. The command line is right, so this is no wrong usage (A18.11)."""

    exit_status = 1


class Schema(NamedTuple):
    """What a file must declare to be, and all that it may hold, by path."""

    api_version: str
    kind: str
    fields: Mapping[str, FieldType]


def read_config_file(path: Path, option: str, parse: Callable[[bytes], _Value]) -> _Value:
    """Return what `parse` makes of a file's bytes; `option` is the flag that named the file.

    Raises ConfigError if it cannot be read, and passes BadFileError on with the file's name.
    """
    try:
        return parse(read_file(path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", f"give {option} a file that may be read"
        ) from error
    except BadFileError as error:
        raise BadFileError(f"{path}: {error.message}", error.remedy) from error


class Found(NamedTuple):
    """What a strict look at a file has found: what is wrong, odd included, and what is noted."""

    errors: list[str]
    warnings: list[str]


class Walk(NamedTuple):
    """One pass over all fields: what was found by path, what to warn of, what is wrong.

    `oddities` are fields that were passed over: unknown ones and duplicates. `names` are what
    fields are called in messages, where that is not their path.
    """

    fields: Mapping[str, FieldType]
    values: dict[str, Any]
    oddities: list[str]
    warnings: list[str]
    errors: list[str]
    names: Mapping[str, str] = MappingProxyType({})

    def text(self, path: str) -> str:
        """Return a field of text, "" where it is not given."""
        return str(self.values.get(path, ""))

    def parsed(self, path: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        """Return the parsed text of a field, the default where it is empty or wrong."""
        if not self.text(path):
            return default
        try:
            return parse(self.text(path))
        except ValueError as error:
            self.wrong(path, str(error))
            return default

    def wrong(self, path: str, why: str) -> None:
        """Note what is wrong with a field."""
        self.errors.append(f"{self.names.get(path, path)}: {why}")

    def refuse_errors(self) -> None:
        """Raise BadFileError with everything that is wrong."""
        if self.errors:
            raise BadFileError("; ".join(self.errors), "correct what is named")

    def block(self, block: Block, prefix: str) -> None:
        """Take up the fields of a mapping, and of those below it."""
        seen: set[str] = set()
        for name, value in block.pairs:
            path = prefix + name
            if name in seen:
                self.oddities.append(f"{path} stands twice: the last one counts")
            seen.add(name)
            self.take(path, value)

    def take(self, path: str, value: Any) -> None:
        """Take up one field by its path."""
        known = self.fields.get(path)
        if known is None:
            self.oddities.append(f"{path} is unknown: it is passed over")
        elif value is None:
            self.values.pop(path, None)
        elif not known.fits(value):
            self.errors.append(f"{self.names.get(path, path)} must be {known.name}")
        elif known is MAPPING:
            self.block(value, f"{path}.")
        else:
            self.values[path] = value


def walk(text: bytes, schema: Schema) -> Walk:
    """Return what a YAML or JSON text holds; raises BadFileError for what is neither."""
    try:
        root = _load(text)
    except (ValueError, RecursionError) as error:
        raise BadFileError(
            f"neither YAML nor JSON: {error}", f"write a {schema.kind} and quote addresses"
        ) from None
    found = Walk(schema.fields, {}, [], [], [])
    if is_block(root):
        found.block(root, "")
    else:
        found.errors.append("the file holds no mapping")
    for path, wanted in (("apiVersion", schema.api_version), ("kind", schema.kind)):
        if found.text(path) != wanted:
            found.errors.append(f"{path} must be {wanted}, not {found.text(path)!r}")
    return found


def _load(text: bytes) -> Any:
    """Return plain values with every mapping as a Block, so that duplicates can be seen."""
    if text.lstrip().startswith(b"{"):
        try:
            return json.loads(text, object_pairs_hook=Block)
        except ValueError:
            pass  # flow style YAML begins with { too
    return load_document(text, mapping=Block)

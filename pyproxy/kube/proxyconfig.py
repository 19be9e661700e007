# SPDX-License-Identifier: Apache-2.0
"""`--config FILE`: kube-proxy's own KubeProxyConfiguration v1alpha1, YAML or JSON.

As kube-proxy does (parity A19.1), unknown and duplicate fields are named and passed over, so a
file for another release works; a wrong type or value is fatal, all of them in one message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyproxy.errors import ConfigError
from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.configfields import FIELDS, Block, is_block
from pyproxy.kube.manifests import read_file
from pyproxy.kube.yamltext import load_document
from pyproxy.model import Address, Prefix, address_text, family_of

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
HEALTHZ_PORT = 10256
METRICS_PORT = 10249

_Value = TypeVar("_Value")


class BindAddress(NamedTuple):
    """Where to listen: an IP address as text without brackets, and a port."""

    host: str
    port: int


class ProxyConfig(NamedTuple):
    """What is read of the configuration, with kube-proxy's defaults (A19.2, A12.1, A13.1).

    `node_name` is "" where the file has no hostnameOverride. `cluster_cidrs` has at most one
    prefix a family. `warnings` name the fields that were passed over, for the log.
    """

    node_name: str = ""
    bind_address: Address = bytes(4)
    cluster_cidrs: tuple[Prefix, ...] = ()
    healthz_bind_address: BindAddress = BindAddress("0.0.0.0", HEALTHZ_PORT)
    metrics_bind_address: BindAddress = BindAddress("127.0.0.1", METRICS_PORT)
    warnings: tuple[str, ...] = ()


def read_config(path: Path) -> ProxyConfig:
    """Return a file's configuration. Raises ConfigError with everything that is wrong in it."""
    try:
        return parse_config(read_file(path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "give --config a file that may be read"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.remedy) from error


def parse_config(text: bytes) -> ProxyConfig:
    """Return the configuration of a YAML or JSON text. Raises ConfigError."""
    try:
        root = _load(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"neither YAML nor JSON: {error}", f"write a {KIND} and quote addresses"
        ) from None
    walk = _Walk({}, [], [])
    if is_block(root):
        walk.block(root, "")
    else:
        walk.errors.append("the file holds no mapping")
    config = _validated(walk)
    if walk.errors:
        raise ConfigError("; ".join(walk.errors), "correct what is named")
    return config


def node_name(text: str) -> str:
    """Return a host name as the name of a Node: trimmed and in lower case (A16.1)."""
    return text.strip().lower()


def parse_cluster_cidrs(text: str) -> tuple[Prefix, ...]:
    """Return the CIDRs of clusterCIDR: none, one, or one of each family. Raises ValueError."""
    if not text:
        return ()
    found = tuple(parse_prefix(one) for one in text.split(","))
    if len(found) > 2:
        raise ValueError(f"{text!r} has more than two CIDRs")
    if len({family_of(one.address) for one in found}) < len(found):
        raise ValueError(f"{text!r} has two CIDRs of one family")
    return found


def parse_bind_address(text: str, default_port: int) -> BindAddress:
    """Return where to listen from "IP:port", "[IP]:port" or an IP alone (A19.10).

    Raises ValueError.
    """
    host, port = _split_host_port(text, default_port)
    try:
        host = address_text(parse_address(host))
    except ValueError:
        raise ValueError(f"{text!r} is no IP:port") from None
    if not 1 <= port <= 65535:
        raise ValueError(f"{text!r} has a port that is not 1 to 65535")
    return BindAddress(host, port)


def _split_host_port(text: str, default_port: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not host:
        return text, default_port
    return (host, int(port)) if port.isascii() and port.isdecimal() else (text, default_port)


def _load(text: bytes) -> Any:
    """Return plain values with every mapping as a Block, so that duplicates can be seen."""
    if text.lstrip().startswith(b"{"):
        try:
            return json.loads(text, object_pairs_hook=Block)
        except ValueError:
            pass  # flow style YAML begins with { too
    return load_document(text, mapping=Block)


class _Walk(NamedTuple):
    """One pass over all fields: what was found by path, what to warn of, what is wrong."""

    values: dict[str, Any]
    warnings: list[str]
    errors: list[str]

    def block(self, block: Block, prefix: str) -> None:
        seen: set[str] = set()
        for name, value in block.pairs:
            path = prefix + name
            if name in seen:
                self.warnings.append(f"{path} stands twice: the last one counts")
            seen.add(name)
            self._field(path, value)

    def _field(self, path: str, value: Any) -> None:
        known = FIELDS.get(path)
        if known is None:
            self.warnings.append(f"{path} is unknown: it is passed over")
        elif value is None:
            self.values.pop(path, None)
        elif not known.fits(value):
            self.errors.append(f"{path} must be {known.name}")
        elif is_block(value) and path != "featureGates":
            self.block(value, f"{path}.")
        else:
            self.values[path] = value

    def text(self, path: str) -> str:
        return str(self.values.get(path, ""))

    def attempt(self, path: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        """Return the parsed text of a field, the default where it is empty or wrong."""
        if not self.text(path):
            return default
        try:
            return parse(self.text(path))
        except ValueError as error:
            self.errors.append(f"{path}: {error}")
            return default


def _validated(walk: _Walk) -> ProxyConfig:
    walk.errors.extend(_wrong_head(walk))
    bind = walk.attempt("bindAddress", parse_address, bytes(4))
    healthz, metrics = ("0.0.0.0", "127.0.0.1") if len(bind) == 4 else ("::", "::1")
    return ProxyConfig(
        node_name=node_name(walk.text("hostnameOverride")),
        bind_address=bind,
        cluster_cidrs=walk.attempt("clusterCIDR", parse_cluster_cidrs, ()),
        healthz_bind_address=walk.attempt(
            "healthzBindAddress",
            lambda text: parse_bind_address(text, HEALTHZ_PORT),
            BindAddress(healthz, HEALTHZ_PORT),
        ),
        metrics_bind_address=walk.attempt(
            "metricsBindAddress",
            lambda text: parse_bind_address(text, METRICS_PORT),
            BindAddress(metrics, METRICS_PORT),
        ),
        warnings=tuple(walk.warnings),
    )


def _wrong_head(walk: _Walk) -> Iterator[str]:
    for path, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if walk.text(path) != wanted:
            yield f"{path} must be {wanted}, not {walk.text(path)!r}"

# SPDX-License-Identifier: Apache-2.0
"""Reads files of packet cases (schema pyproxy-flows/1; it is described in kube-proxy.yaml)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from pyproxy.errors import SourceError
from pyproxy.kube.addresses import parse_address, valid_addresses, valid_prefixes
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Kind
from pyproxy.model import EndpointSlice, Node, Protocol, Service
from pyproxy.plan.connection import Connection
from pyproxy.plan.options import DetectLocalMode, Mode, Options, with_node
from pyproxy.plan.world import World
from tests.flows.objects import Json, node_object, service_object, slice_object
from tests.flows.schema import unknown_keys

KUBE_PROXY = Path(__file__).with_name("kube-proxy.yaml")
CORNERS = Path(__file__).with_name("corners.yaml")
SCHEMA = "pyproxy-flows/1"
_HEADER = ("schema", "upstream", "cases")


class FlowFileError(Exception):
    """A file of cases can't be used; the message says why in one sentence."""


class Flow(NamedTuple):
    """One connection and what kube-proxy does with it: backends as "ip:port", or a verdict.

    `role` is whose the source is: pod, node, localhost or external.
    """

    name: str
    connection: Connection
    expect: frozenset[str] | str
    masquerade: bool
    role: str


class Case(NamedTuple):
    """One state of a case in one of kube-proxy's modes, with the flows to try in it."""

    id: str
    mode: Mode
    body: Json
    flows: tuple[Flow, ...]

    def objects(self) -> list[Json]:
        """Return Services, EndpointSlices and the Node as the API server has them."""
        return [
            *(service_object(short, age) for age, short in enumerate(self.body["services"])),
            *(slice_object(short, n) for n, short in enumerate(self.body["endpointslices"])),
            node_object(self.body["node"]),
        ]

    def options(self) -> Options:
        """Return the settings of the case, without what the Node object tells."""
        return _options(self.body, self.mode)

    def world(self) -> World:
        """Return a world that has the case's objects, not yet planned."""
        world = World(self.options())
        for item in self.objects():
            _feed(world, item)
        return world


def _feed(world: World, item: Json) -> None:
    """Decode an object and put it, as an agent does; one that isn't proxied is left out."""
    found = decode(Kind(item["kind"]), item).object
    if isinstance(found, Service):
        world.put_service(found)
    elif isinstance(found, EndpointSlice):
        world.put_slice(found)
    elif isinstance(found, Node):
        world.put_node(found)


class FlowFile(NamedTuple):
    """A file of cases. `others` counts the entries of sections that aren't packet cases.

    `sequences` are the ids of behaviours in several steps, which tests of their names follow.
    `unknown` are the keys of cases that mean nothing here, each with the case and its path.
    """

    path: Path
    cases: tuple[Case, ...]
    found: int
    others: dict[str, int]
    sequences: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_flow_file(path: Path) -> FlowFile:
    """Read one file. Raises FlowFileError where it isn't one or has what isn't understood."""
    document = _document(path)
    bodies = document.get("cases")
    bodies = [] if bodies is None else bodies
    if not isinstance(bodies, list):
        raise FlowFileError(f"{path}: `cases` is no list")
    unknown: list[str] = []
    cases: list[Case] = []
    for number, body in enumerate(bodies, 1):
        called = _called(body, number)
        try:
            unknown += [f"case {called}: {key}" for key in unknown_keys(body)]
            made = tuple(_cases_of(body))
            for case in made:
                case.world()  # or an object of it is malformed
        except (msgspec.ValidationError, SourceError, ValueError) as error:
            raise FlowFileError(f"{path}, case {called}: {error}") from error
        cases += made
    return FlowFile(
        path=path,
        cases=tuple(cases),
        found=sum(_count_flows(body, body["backends"]) for body in bodies),
        others={key: _entries(document[key]) for key in document if key not in _HEADER},
        sequences=_sequences(path, document),
        unknown=tuple(unknown),
    )


def _document(path: Path) -> Json:
    try:
        document = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as error:
        raise FlowFileError(f"{path} can't be read as YAML: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FlowFileError(f"{path} is no file of packet cases: it needs `schema: {SCHEMA}`")
    return document


def _called(body: Any, number: int) -> str:
    """Return what to call a case by that may not even have a name."""
    return str(body["id"]) if isinstance(body, dict) and "id" in body else f"number {number}"


def _sequences(path: Path, document: Json) -> tuple[str, ...]:
    found = document.get("sequences") or []
    if not isinstance(found, list) or not all(isinstance(s, dict) and "id" in s for s in found):
        raise FlowFileError(f"{path}: `sequences` is no list of mappings with an `id`")
    return tuple(str(each["id"]) for each in found)


def _entries(section: Any) -> int:
    """Count what a section of another kind holds."""
    rows = section.get("rows", section) if isinstance(section, dict) else section
    return len(rows) if isinstance(rows, list | dict) else 1


def _count_flows(node: Any, backends: list[str]) -> int:
    """Count flows, once a mode, wherever in a case they stand, so that none is forgotten."""
    if isinstance(node, list):
        return sum(_count_flows(item, backends) for item in node)
    if not isinstance(node, dict):
        return 0
    if "srcRole" in node:
        return len(node.get("only") or backends)
    return sum(_count_flows(item, backends) for item in node.values())


def _cases_of(body: Json) -> Iterator[Case]:
    """Yield a case once for every mode and state that it has."""
    for mode in (Mode(name) for name in body["backends"]):
        for state, changed, flows in _states_of(body):
            name = f"{body['id']}-{mode.value}{state}"
            yield Case(name, mode, changed, tuple(_flows_of(flows, mode)))


def _states_of(body: Json) -> Iterator[tuple[str, Json, list[Json]]]:
    """Yield a case as it stands, `before` its slices got a label, and `after` an action."""
    yield "", body, body["flows"]
    unlabelled = [
        {key: value for key, value in short.items() if key != "labels"}
        for short in body["endpointslices"]
    ]
    for state in body.get("before", []):
        yield "-before", {**body, "endpointslices": unlabelled}, state["flows"]
    for state in body.get("after", []):
        action = state.get("action", "")
        if action.casefold() != "delete all endpointslices":
            raise ValueError(f"unknown action {action!r}")
        yield "-after", {**body, "endpointslices": []}, state["flows"]


def _flows_of(shorts: list[Json], mode: Mode) -> Iterator[Flow]:
    for short in shorts:
        if mode.value in (short.get("only") or [mode.value]):
            expect = short["expect"]
            yield Flow(
                name=short["name"],
                connection=_connection(short),
                expect=expect if isinstance(expect, str) else frozenset(expect),
                masquerade=short["masq"],
                role=short["srcRole"],
            )


def _connection(short: Json) -> Connection:
    return Connection(
        source=parse_address(short["src"]),
        destination=parse_address(short["dst"]),
        port=short["port"],
        protocol=Protocol[short["proto"]].value,
    )


def _options(body: Json, mode: Mode) -> Options:
    config, node = body["config"], body["node"]
    addresses = valid_addresses(node["ips"])
    options = Options(
        node_name=node["name"],
        mode=mode,
        masquerade_all=config["masqueradeAll"],
        detect_local_mode=DetectLocalMode(config["detectLocal"]["mode"]),
        local_cidrs=valid_prefixes(config["detectLocal"]["cidrs"]),
        local_addresses=frozenset(addresses),
        node_port_addresses=valid_prefixes(config["nodePortAddresses"]),
        localhost_node_ports=config["localhostNodePorts"],
        service_cidrs=valid_prefixes(config["serviceCIDRs"]),
    )
    return with_node(options, Node(node["name"], addresses))


def section_rows(path: Path, section: str) -> list[Json]:
    """Return the rows of a section that is no packet cases, none if the file has none of it."""
    rows: list[Json] = (_document(path).get(section) or {}).get("rows", [])
    return rows


def steps_of(path: Path, section: str) -> Json:
    """Return a section of a file that is told in steps, {} if the file has none of that name."""
    found: Json = _document(path).get(section) or {}
    return found

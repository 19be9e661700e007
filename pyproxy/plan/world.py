# SPDX-License-Identifier: Apache-2.0
"""All objects of the cluster, and what they mean for this node.

Changes only mark services; `replan` does the work for the marked ones. Objects may come in any
order: a slice before its service, or after it is gone (parity A15.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pyproxy.model import (
    EndpointSlice,
    Node,
    ObjectName,
    Prefix,
    Service,
    ServiceCIDR,
    ServicePortName,
)
from pyproxy.plan.build import plan_service
from pyproxy.plan.claims import Claims, Conflict, PlanKey, key_of
from pyproxy.plan.frontends import health_check_node_port
from pyproxy.plan.health import HealthCheck, health_check
from pyproxy.plan.options import Options, with_node
from pyproxy.tables import PortPlan


class World:
    """Services, EndpointSlices, ServiceCIDRs, this node and the settings; one thread owns it.

    An object that is put again replaces the former one of its name; dropping an object that
    isn't there does nothing, so every event is safe to see twice.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._services: dict[ObjectName, Service] = {}
        # Each service's, by name: which of two duplicate endpoints counts mustn't depend on
        # whose slice came first.
        self._slices: dict[ObjectName, tuple[EndpointSlice, ...]] = {}
        self._slice_owner: dict[ObjectName, ObjectName] = {}
        self._service_cidrs: dict[str, tuple[Prefix, ...]] = {}
        self._claims = Claims()
        # What each service asks for; published has the frontends that it got.
        self._asked: dict[ObjectName, tuple[PortPlan, ...]] = {}
        self._published: dict[PlanKey, PortPlan] = {}
        self._dirty: set[ObjectName] = set()
        self._node: Node | None = None
        self._checked: dict[ObjectName, HealthCheck] = {}
        self._checks: Mapping[ObjectName, HealthCheck] | None = None

    @property
    def node(self) -> Node | None:
        """This node's Node object, None where there is none."""
        return self._node

    @property
    def health_checks(self) -> Mapping[ObjectName, HealthCheck]:
        """The services that load balancers ask for, as of the last `replan` (parity A10.5).

        It is one and the same object until one of them changes.
        """
        if self._checks is None:
            self._checks = MappingProxyType(dict(self._checked))
        return self._checks

    @property
    def options(self) -> Options:
        """The settings in force, with this node's zone and addresses, and all service CIDRs."""
        return self._options

    @property
    def plans(self) -> Mapping[PlanKey, PortPlan]:
        """All plans as of the last `replan`; a view that follows later ones."""
        return MappingProxyType(self._published)

    def put_service(self, service: Service) -> None:
        """Take a new or changed service."""
        if self._services.get(service.name) != service:
            self._services[service.name] = service
            self._dirty.add(service.name)

    def drop_service(self, name: ObjectName) -> None:
        """Forget a service that is gone or no longer to be proxied; its slices stay."""
        if self._services.pop(name, None) is not None:
            self._dirty.add(name)

    def put_slice(self, piece: EndpointSlice) -> None:
        """Take a new or changed slice; its service label may have changed too."""
        owner = self._slice_owner.get(piece.name)
        if owner is not None and owner != piece.service:
            self.drop_slice(piece.name)
        siblings = self._slices.get(piece.service, ())
        if piece in siblings:
            return
        others = _without(siblings, piece.name)
        self._slices[piece.service] = tuple(sorted((*others, piece), key=_name_of))
        self._slice_owner[piece.name] = piece.service
        self._dirty.add(piece.service)

    def drop_slice(self, name: ObjectName) -> None:
        """Forget a slice."""
        owner = self._slice_owner.pop(name, None)
        if owner is None:
            return
        others = _without(self._slices.pop(owner), name)
        if others:
            self._slices[owner] = others
        self._dirty.add(owner)

    def put_node(self, node: Node) -> None:
        """Take this node's zone and IPs; other nodes don't matter (parity A1.1, A5.5)."""
        if node.name == self._options.node_name:
            self._node = node
            self.set_options(with_node(self._options, node))

    def drop_node(self, name: str) -> None:
        """Forget the zone of this node, when its Node object is gone."""
        if name == self._options.node_name:
            self._node = None
            self.set_options(with_node(self._options, None))

    def put_service_cidr(self, found: ServiceCIDR) -> None:
        """Take the CIDRs of a new or changed ServiceCIDR."""
        self._service_cidrs[found.name] = found.cidrs
        self._join_service_cidrs()

    def drop_service_cidr(self, name: str) -> None:
        """Forget a ServiceCIDR; a CIDR that another one has too stays."""
        if self._service_cidrs.pop(name, None) is not None:
            self._join_service_cidrs()

    def set_options(self, options: Options) -> None:
        """Take other settings; every service is planned anew if any differs (A5.5)."""
        if options != self._options:
            self._options = options
            self._dirty.update(self._services)

    def replan(self) -> dict[PlanKey, PortPlan | None]:
        """Plan what changed; return the plans that differ from the last call's, None for gone.

        They are sorted by name.
        """
        touched: set[PlanKey] = set()
        for name in self._dirty:
            touched |= self._replan_service(name)
        self._dirty.clear()
        changes: dict[PlanKey, PortPlan | None] = {}
        for key in sorted(touched):
            self._publish(key, changes)
        return changes

    def conflicts(self) -> tuple[Conflict, ...]:
        """Return the frontends that several service ports claim, for status."""
        return tuple(self._claims.conflicts())

    def health_check_node_ports(self) -> dict[ObjectName, int]:
        """Return the services that a load balancer asks about, with the port (parity A10.5)."""
        ports = ((s.name, health_check_node_port(s)) for s in self._services.values())
        return {name: port for name, port in ports if port}

    def uid_of(self, port: ServicePortName) -> str:
        """Return the uid of a service port's Service, "" where it is unknown (model.Service)."""
        service = self._services.get(ObjectName(port.namespace, port.name))
        return service.uid if service else ""

    def is_empty(self) -> bool:
        """Whether no object, plan or claim is left, nor any memory of one."""
        objects = (self._services, self._slices, self._slice_owner, self._service_cidrs)
        kept = (*objects, self._asked, self._published, self._dirty, self._checked)
        return not any(kept) and self._claims.is_empty()

    def _join_service_cidrs(self) -> None:
        """Take the CIDRs over into the options; plans do not depend on them (A8.7)."""
        cidrs = {cidr for each in self._service_cidrs.values() for cidr in each}
        in_order = sorted(cidrs, key=_family_first)
        self._options = self._options._replace(service_cidrs=tuple(in_order))

    def _replan_service(self, name: ObjectName) -> set[PlanKey]:
        """Plan one service, settle its claims; return the plans that may have changed by it."""
        old = self._asked.get(name, ())
        new = self._plan(name)
        self._note_check(name, new)
        if new == old:
            return set()
        touched = {key_of(plan) for plan in (*old, *new)}
        if _claimed(old) != _claimed(new):
            for plan in old:
                touched |= self._claims.remove(plan)
            for plan in new:
                touched |= self._claims.add(plan)
        if new:
            self._asked[name] = new
        else:
            self._asked.pop(name, None)
        return touched

    def _note_check(self, name: ObjectName, plans: tuple[PortPlan, ...]) -> None:
        """Keep what a load balancer is told of a service, which no plan has all of."""
        service = self._services.get(name)
        check = health_check(service, plans) if service else None
        if check == self._checked.get(name):
            return
        self._checks = None
        if check:
            self._checked[name] = check
        else:
            del self._checked[name]

    def _plan(self, name: ObjectName) -> tuple[PortPlan, ...]:
        service = self._services.get(name)
        if service is None:
            return ()
        return tuple(plan_service(service, self._slices.get(name, ()), self._options))

    def _publish(self, key: PlanKey, changes: dict[PlanKey, PortPlan | None]) -> None:
        """Bring one published plan up to date, and note it if it differs."""
        wanted = self._granted(key)
        if wanted is None:
            if self._published.pop(key, None) is not None:
                changes[key] = None
            return
        if self._published.get(key) != wanted:
            changes[key] = wanted
        self._published[key] = wanted  # equal or not: one copy is enough

    def _granted(self, key: PlanKey) -> PortPlan | None:
        asked = self._asked.get(ObjectName(key.name.namespace, key.name.name), ())
        found = next((plan for plan in asked if key_of(plan) == key), None)
        return None if found is None else self._claims.granted(found)


def _claimed(plans: tuple[PortPlan, ...]) -> list[object]:
    """Return what the claims of a service's plans depend on."""
    return [(plan.name, plan.family, plan.created, plan.frontends) for plan in plans]


def _name_of(piece: EndpointSlice) -> ObjectName:
    return piece.name


def _family_first(cidr: Prefix) -> tuple[int, Prefix]:
    return len(cidr.address), cidr


def _without(pieces: tuple[EndpointSlice, ...], name: ObjectName) -> tuple[EndpointSlice, ...]:
    return tuple(piece for piece in pieces if piece.name != name)

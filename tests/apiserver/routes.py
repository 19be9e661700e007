# SPDX-License-Identifier: Apache-2.0
"""What a path means: resource, namespace, name and verb, as the API server's authorizer sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.apiserver.answers import ApiError, Json, refusal
from tests.apiserver.resources import EVENTS, STORED, Resource
from tests.apiserver.watching import is_true


class Route(NamedTuple):
    """A request's target; `resource` is None for paths such as /version."""

    verb: str
    path: str
    resource: Resource | None = None
    namespace: str = ""
    name: str = ""

    @property
    def plural(self) -> str:
        """The resource's plural, empty for other paths."""
        return self.resource.plural if self.resource else ""

    @property
    def details(self) -> Json:
        """The details of a Status document about it."""
        group = self.resource.group if self.resource else ""
        return {
            **({"name": self.name} if self.name else {}),
            **({"group": group} if group else {}),
            "kind": self.plural,
        }

    def forbidden(self, user: str) -> ApiError:
        """403 for this user, in the words of the authorizer."""
        nosniff = (("X-Content-Type-Options", "nosniff"),)
        if self.resource is None:
            message = f'forbidden: User "{user}" cannot {self.verb} path "{self.path}"'
            return refusal(403, "Forbidden", message, {}, headers=nosniff)
        what = f'{self.resource.qualified} "{self.name}"' if self.name else self.resource.qualified
        scope = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        message = (
            f'{what} is forbidden: User "{user}" cannot {self.verb} resource "{self.plural}"'
            f' in API group "{self.resource.group}" {scope}'
        )
        return refusal(403, "Forbidden", message, self.details, headers=nosniff)

    def not_found(self) -> ApiError:
        """404 for an object that isn't there."""
        qualified = self.resource.qualified if self.resource else ""
        return refusal(404, "NotFound", f'{qualified} "{self.name}" not found', self.details)


def no_such_path() -> ApiError:
    """404 for a path that no resource has."""
    return refusal(404, "NotFound", "the server could not find the requested resource", {})


def not_allowed() -> ApiError:
    """405: the tests' server stores nothing but Events over HTTP."""
    message = "the server does not allow this method on the requested resource"
    return refusal(405, "MethodNotAllowed", message, {})


def find_route(method: str, path: str, query: Mapping[str, str]) -> Route:
    """Return the route of a request; `resource` is None where the path is none of a resource."""
    for resource in (*STORED, *EVENTS):
        if path.startswith(resource.base + "/"):
            parts = path.removeprefix(resource.base + "/").strip("/").split("/")
            route = _route_in(resource, parts, path)
            if route:
                return route._replace(verb=_verb(method, route, query))
    return Route(method.lower(), path)


def _route_in(resource: Resource, parts: list[str], path: str) -> Route | None:
    namespace = ""
    if resource.namespaced and len(parts) >= 3 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    if parts[0] != resource.plural or len(parts) > 2:
        return None
    name = parts[1] if len(parts) == 2 else ""
    if name and resource.namespaced and not namespace:
        return None
    return Route("", path, resource, namespace, name)


def _verb(method: str, route: Route, query: Mapping[str, str]) -> str:
    if method == "GET":
        if is_true(query.get("watch")):
            return "watch"
        return "get" if route.name else "list"
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
        method, method.lower()
    )

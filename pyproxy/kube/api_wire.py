# SPDX-License-Identifier: Apache-2.0
"""What the API server wraps objects in: pages of lists, watch events and its own errors."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field


class ListMeta(Struct, gc=False, rename="camel"):
    """metadata of a list; `continue_` is the token of the next page."""

    resource_version: str | None = None
    continue_: str | None = field(default=None, name="continue")


class ListPage(Struct, gc=False):
    """A page of a list; its members stay in the bytes of the page until they are decoded."""

    kind: str | None = None
    metadata: ListMeta | None = None
    items: list[msgspec.Raw] | None = None


class ObjectMeta(Struct, gc=False, rename="camel"):
    """metadata of an object, as far as following it needs."""

    resource_version: str | None = None


class Object(Struct, gc=False):
    """Any object; members of lists have no kind."""

    kind: str | None = None
    metadata: ObjectMeta | None = None


class WatchEvent(Struct, gc=False):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class ResourceName(Struct, gc=False):
    """resources[] of an APIResourceList."""

    name: str | None = None


class Resources(Struct, gc=False):
    """v1 APIResourceList: what an API group has."""

    kind: str | None = None
    resources: list[ResourceName] | None = None


class StatusCause(Struct, gc=False):
    """details.causes[] of a Status."""

    reason: str | None = None


class StatusDetails(Struct, gc=False, rename="camel"):
    """details of a Status."""

    causes: list[StatusCause] | None = None
    retry_after_seconds: int | None = None


class Status(Struct, gc=False):
    """v1 Status: how the API server says no."""

    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: StatusDetails | None = None

    @property
    def version_is_too_large(self) -> bool:
        """Tell whether a resourceVersion was asked for that the server has not reached."""
        causes = (self.details or StatusDetails()).causes or []
        return any(cause.reason == "ResourceVersionTooLarge" for cause in causes)


def status_in(text: bytes | msgspec.Raw) -> Status:
    """Return the Status that an answer holds; an empty one where it is something else."""
    try:
        return msgspec.json.decode(text, type=Status)
    except (msgspec.MsgspecError, RecursionError):
        return Status()


def is_older(version: str, than: str) -> bool:
    """Tell whether a resourceVersion is surely older than another.

    Decimal versions of one kind may be compared (KEP-5504); of others nothing is known.
    """
    if not (_is_decimal(version) and _is_decimal(than)):
        return False
    return int(version) < int(than)


def _is_decimal(version: str) -> bool:
    # The length keeps hostile digits away from int(), which takes quadratic time.
    return version.isascii() and version.isdecimal() and len(version) <= 40

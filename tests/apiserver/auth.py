# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what they may: tokens, client certificates, passwords; refusals a resource."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.apiserver.answers import unauthorized
from tests.apiserver.routes import Route

# Whom the rotating token stands for: messages of 403 name the user, as in a real cluster.
DEFAULT_USER = "system:serviceaccount:kube-system:pyproxy"


class Denial(NamedTuple):
    """A right that is missing; * stands for any."""

    resource: str
    verb: str
    user: str

    def concerns(self, route: Route, user: str) -> bool:
        """Say whether a request needs that right."""
        return (
            self.resource in {"*", route.plural}
            and self.verb in {"*", route.verb}
            and self.user in {"*", user}
        )


class Auth:
    """Credentials that are good now, and the rights that are missing."""

    def __init__(self) -> None:
        self.token = ""
        self.passwords: dict[str, str] = {}
        self._users: dict[str, str] = {}
        self._revoked: set[int] = set()
        self._denials: set[Denial] = set()
        self._issued = 0
        self.rotate_token()

    def rotate_token(self) -> str:
        """Make another token the good one and return it; the one before gets 401 from now on."""
        self._users.pop(self.token, None)
        self._issued += 1
        self.token = f"token-{self._issued}"
        self._users[self.token] = DEFAULT_USER
        return self.token

    def allow_token(self, token: str, user: str) -> None:
        """Take another token for `user`, beside the one that rotates."""
        self._users[token] = user

    def revoke_token(self, token: str) -> None:
        """Answer 401 to a token from now on."""
        self._users.pop(token, None)

    def revoke_certificate(self, serial: int) -> None:
        """Answer 401 to a client certificate from now on."""
        self._revoked.add(serial)

    def forbid(self, denial: Denial) -> None:
        """Answer 403 to such requests."""
        self._denials.add(denial)

    def permit(self, denial: Denial) -> None:
        """Take a `forbid` back."""
        self._denials.discard(denial)

    def identify(self, headers: Mapping[str, str], certificate: Mapping[str, Any] | None) -> str:
        """Return the user of a request; raises ApiError (401)."""
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        user = None
        if scheme.lower() == "bearer":
            user = self._users.get(credential.strip())
        elif scheme.lower() == "basic":
            user = self._by_password(credential)
        elif not scheme and certificate:
            user = self._by_certificate(certificate)
        if user is None:
            raise unauthorized()
        return user

    def authorize(self, route: Route, user: str) -> None:
        """Raise ApiError (403) where the user lacks the right."""
        if any(denial.concerns(route, user) for denial in self._denials):
            raise route.forbidden(user)

    def _by_password(self, credential: str) -> str | None:
        try:
            name, _, password = base64.b64decode(credential).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if name in self.passwords and self.passwords[name] == password else None

    def _by_certificate(self, certificate: Mapping[str, Any]) -> str | None:
        if int(certificate.get("serialNumber", "0"), 16) in self._revoked:
            return None
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        return next((value for name, value in subject if name == "commonName"), None)

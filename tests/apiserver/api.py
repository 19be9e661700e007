# SPDX-License-Identifier: Apache-2.0
"""What tests use: `ApiServer`, the same methods in this process and over a control socket."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from tests.apiserver.answers import Json
from tests.apiserver.certificates import Pair
from tests.apiserver.channel import Channel, SocketChannel, ThreadChannel
from tests.apiserver.faults import Fault
from tests.apiserver.kubeconfig import Access, write_kubeconfig, write_service_account
from tests.apiserver.settings import Seen, Settings, seen_from

PASSWORD = ("tester", "let me in")


class ApiServer:
    """An API server; a context manager that ends it (over a control socket: hangs up).

    `ApiServer(Settings(...))` runs in a thread of this process, `ApiServer.at(SOCKET)` controls one
    started by `python -m tests.apiserver`. `resource` is a plural (services, nodes, endpointslices,
    servicecidrs) or * for all. Methods raise CommandError with a sentence for what can't be done,
    and ValueError for a fault or a kubeconfig that there is not.
    """

    def __init__(self, settings: Settings | None = None, *, channel: Channel | None = None) -> None:
        self._channel = channel or ThreadChannel(settings or Settings())

    @classmethod
    def at(cls, control: Path) -> Self:
        """Return the server whose control socket is at `control`; raises OSError."""
        return cls(channel=SocketChannel(control))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server, or hang up."""
        self._channel.close()

    # Objects and their history.

    def put(self, *objects: Json) -> int:
        """Create or replace objects; return the revision. An equal object changes nothing."""
        return int(self._call("put", objects=list(objects)))

    def delete(self, kind: str, namespace: str, name: str) -> int:
        """Delete an object (the namespace is "" for a Node or ServiceCIDR); return the revision."""
        return int(self._call("delete", kind=kind, namespace=namespace, name=name))

    def advance(self, to: int | None = None, by: int = 1) -> int:
        """Let others' writes bring the revision to `to`, or further `by`; return it."""
        return int(self._call("advance", to=to, by=by))

    def bookmark(self, resource: str = "*") -> int:
        """Send a bookmark to the live watches that take them; return how many they are."""
        return int(self._call("bookmark", resource=resource))

    def compact(self, to: int | None = None, answer: str = "event") -> int:
        """Forget the history before `to`; without, every revision given out so far is too old.

        `answer`: whether watches of it get 410 as an ERROR "event" or as the HTTP "status".
        """
        return int(self._call("compact", to=to, answer=answer))

    @property
    def revision(self) -> int:
        """The revision of the last write."""
        return int(self._call("revision"))

    # What there is.

    def withdraw(self, resource: str) -> None:
        """Be a server that has no such resource: 404, and its watches end. Its objects stay."""
        self._call("withdraw", resource=resource)

    def offer(self, resource: str) -> None:
        """Take back a `withdraw`."""
        self._call("offer", resource=resource)

    # What goes wrong.

    def fault(self, kind: str, resource: str = "*", verb: str = "*", **options: Any) -> None:
        """Let coming requests, or lines of watches, go wrong: see faults.Fault and KINDS."""
        fault = Fault(kind, resource, verb, **options)
        fault.check()
        self._call("fault", **fault._asdict())

    def clear_faults(self) -> None:
        """Let nothing go wrong any more; silenced watches stay so."""
        self._call("clear_faults")

    def cut_watches(self, resource: str = "*") -> int:
        """Reset the connections of live watches now; return how many."""
        return int(self._call("cut_watches", resource=resource))

    def silence_watches(self, resource: str = "*") -> int:
        """Let live watches die silently: open, but without another word; return how many."""
        return int(self._call("silence_watches", resource=resource))

    def end_watches(self, resource: str = "*") -> int:
        """End live watches cleanly now, as timeoutSeconds does; return how many."""
        return int(self._call("end_watches", resource=resource))

    def stop(self, *, mute: bool = False) -> None:
        """Reset all connections and refuse new ones; `mute`: they open, but nothing answers."""
        self._call("stop", mute=mute)

    def start(self) -> None:
        """Listen again, on the same port, with all that is known."""
        self._call("start")

    def restart(self, history: str = "same") -> None:
        """Stop and start; `history`: same, newer (watches from before get 410) or reset.

        After a reset, objects are the same and revisions count from the beginning: a watch from
        before hangs, as reference 07 has it.
        """
        self._call("restart", history=history)

    # Who may.

    @property
    def token(self) -> str:
        """The bearer token that is good now."""
        return str(self._call("address")["token"])

    def rotate_token(self) -> str:
        """Make another token the good one and return it; the one before gets 401."""
        return str(self._call("rotate_token"))

    def allow_token(self, token: str, user: str) -> None:
        """Take a further token, for `user`."""
        self._call("allow_token", token=token, user=user)

    def revoke_token(self, token: str) -> None:
        """Answer 401 to a token from now on."""
        self._call("revoke_token", token=token)

    def client_certificate(self, user: str = "pyproxy") -> Pair:
        """Return a new client certificate for `user` and its key, as files."""
        return Pair(*map(Path, self._call("client_certificate", user=user)))

    def revoke_certificate(self, certificate: Path) -> None:
        """Answer 401 to the client certificate in this file from now on."""
        self._call("revoke_certificate", certificate=str(certificate))

    def rotate_authority(self) -> Path:
        """Present a certificate of a new CA to new connections; return the CA's file."""
        return Path(self._call("rotate_authority"))

    def forbid(self, resource: str = "*", verb: str = "*", user: str = "*") -> None:
        """Answer 403 to such requests."""
        self._call("forbid", resource=resource, verb=verb, user=user)

    def permit(self, resource: str = "*", verb: str = "*", user: str = "*") -> None:
        """Take back the `forbid` with the same words."""
        self._call("permit", resource=resource, verb=verb, user=user)

    # What clients are given, and what they did.

    @property
    def url(self) -> str:
        """https://ADDRESS:PORT."""
        return str(self._call("address")["url"])

    @property
    def authority(self) -> Path | None:
        """The file of the CA, None without TLS."""
        path = self._call("address")["authority"]
        return Path(path) if path else None

    def kubeconfig(
        self, path: Path, user: str = "token", authority: str = "data", server: str = ""
    ) -> Path:
        """Write a kubeconfig to `path` and return it: see kubeconfig.USERS and AUTHORITIES.

        `server` replaces the URL. Write it again with another token or certificate for a rotation
        on disk: every file is replaced in one step.
        """
        write_kubeconfig(path, self._access(user, server), user, authority)
        return path

    def service_account(self, directory: Path) -> Path:
        """Fill `directory` as a pod's service account directory, and return it."""
        write_service_account(directory, self._access("token", ""))
        return directory

    @property
    def requests(self) -> list[Seen]:
        """The requests read so far, in order."""
        return [seen_from(one) for one in self._call("requests")]

    def asked(self, resource: str, verb: str) -> list[Seen]:
        """Return the requests for a resource by a verb (list, watch, get, create)."""
        return [one for one in self.requests if (one.resource, one.verb) == (resource, verb)]

    def forget_requests(self) -> None:
        """Begin the log of requests anew."""
        self._call("forget_requests")

    def watches(self, resource: str = "*") -> int:
        """Return how many watches live and are not silenced."""
        return int(self._call("watches", resource=resource))

    @property
    def events(self) -> Iterable[Json]:
        """The Events that clients posted, core and events.k8s.io, as they were answered."""
        events: list[Json] = self._call("events")
        return events

    def _access(self, user: str, server: str) -> Access:
        address = self._call("address")
        if user == "basic":
            self._call("allow_password", user=PASSWORD[0], password=PASSWORD[1])
        return Access(
            url=server or address["url"],
            authority=Path(address["authority"]) if address["authority"] else None,
            token=address["token"],
            client=self.client_certificate() if user.startswith("clientCertificate") else None,
            password=PASSWORD,
        )

    def _call(self, command: str, /, **arguments: Any) -> Any:
        return self._channel.call(command, arguments)

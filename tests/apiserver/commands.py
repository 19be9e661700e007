# SPDX-License-Identifier: Apache-2.0
"""What tests can make the server do; runs in its event loop, takes and returns JSON values."""

from __future__ import annotations

import inspect
import ssl
import tempfile
from pathlib import Path
from typing import Any

from tests.apiserver.answers import Json
from tests.apiserver.auth import Denial
from tests.apiserver.certificates import Authority, Pair, server_context
from tests.apiserver.faults import Fault
from tests.apiserver.listener import Listener
from tests.apiserver.resources import resource_named, resource_of_object
from tests.apiserver.settings import Settings
from tests.apiserver.state import State

HISTORIES = ("same", "newer", "reset")
# How far a server that was away has come, where it counts on.
NEWER_BY = 1000


class Commands:
    """The server's own thread calls these; `call` runs one by its name.

    Made by `opened`; `close` ends everything and removes the certificates.
    """

    def __init__(self, settings: Settings) -> None:
        self._state = State(settings)
        self._directory = tempfile.TemporaryDirectory(prefix="pyproxy-apiserver-")
        self._authority: Authority | None = None
        self._context: ssl.SSLContext | None = None
        if settings.tls:
            self._authority = Authority(Path(self._directory.name))
            self._context = server_context(self._server_pair(self._authority), self._authority)
        self._listener = Listener(self._state, self._context)

    async def call(self, name: str, arguments: Json) -> Any:
        """Run a command; raises ValueError for an unknown one, and what the command raises."""
        method = getattr(self, f"do_{name}", None)
        if method is None:
            raise ValueError(f"the server has no command {name!r}")
        result = method(**arguments)
        return await result if inspect.isawaitable(result) else result

    async def do_start(self) -> None:
        """Listen."""
        await self._listener.start()

    async def do_stop(self, *, mute: bool = False) -> None:
        """Drop all connections; refuse new ones, or (`mute`) let them open and say nothing."""
        await self._listener.stop(mute=mute)

    async def do_restart(self, history: str = "same") -> None:
        """Stop and start; `history`: same, newer (others wrote meanwhile), reset (a backup)."""
        if history not in HISTORIES:
            raise ValueError(f"no history {history!r}: give one of {', '.join(HISTORIES)}")
        await self._listener.stop()
        if history == "newer":
            self.do_compact(self.do_advance(by=NEWER_BY))
        if history == "reset":
            self._state.history.reset()
        await self._listener.start()

    async def close(self) -> None:
        """End everything and remove the certificates."""
        await self._listener.stop()
        self._directory.cleanup()

    def do_put(self, objects: list[Json]) -> int:
        """Create or replace objects; return the revision."""
        for value in objects:
            change = self._state.history.put(value)
            self._state.changed(resource_of_object(value), change)
        return self._state.history.revision

    def do_delete(self, kind: str, namespace: str, name: str) -> int:
        """Delete an object; return the revision."""
        resource = resource_named(kind)
        self._state.changed(resource, self._state.history.delete(resource, namespace, name))
        return self._state.history.revision

    def do_withdraw(self, resource: str) -> None:
        """Answer 404 to requests for a resource, and end its watches."""
        self._state.withdrawn.add(resource_named(resource).plural)
        self.do_end_watches(resource)

    def do_offer(self, resource: str) -> None:
        """Take a `withdraw` back."""
        self._state.withdrawn.discard(resource_named(resource).plural)

    def do_advance(self, to: int | None = None, by: int = 1) -> int:
        """Let others' writes bring the revision to `to`, or further `by`; return it."""
        self._state.history.advance(self._state.history.revision + by if to is None else to)
        self._state.moved()
        return self._state.history.revision

    def do_bookmark(self, resource: str) -> int:
        """Send a bookmark to the live watches of a resource that take them; return how many."""
        watches = [one for one in self._state.matching(resource) if one.terms.bookmarks]
        for watch in watches:
            watch.bookmark(self._state.history.revision)
        return len(watches)

    def do_compact(self, to: int | None = None, answer: str = "event") -> int:
        """Forget the history; return the oldest revision that can still be asked for.

        Without `to`, every revision given out so far is too old. `answer`: how watches that start
        before it hear of it, as an ERROR event or as a status.
        """
        if answer not in {"event", "status"}:
            raise ValueError(f"no answer {answer!r}: give event or status")
        self._state.gone_as_status = answer == "status"
        self._state.history.compact(self.do_advance() if to is None else to)
        return self._state.history.compacted

    def do_revision(self) -> int:
        """Return the revision of the last write."""
        return self._state.history.revision

    def do_fault(self, **fields: Any) -> None:
        """Let something go wrong: see faults.Fault."""
        self._state.faults.add(Fault(**fields))

    def do_clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._state.faults.clear()

    def do_cut_watches(self, resource: str) -> int:
        """Reset the connections of live watches; return how many."""
        watches = self._state.matching(resource)
        for watch in watches:
            self._state.watches[watch]()
        return len(watches)

    def do_silence_watches(self, resource: str) -> int:
        """Let live watches hear nothing more, with their connections open; return how many."""
        watches = self._state.matching(resource)
        for watch in watches:
            watch.silent = True
        return len(watches)

    def do_end_watches(self, resource: str) -> int:
        """End live watches cleanly, as timeoutSeconds does; return how many."""
        watches = self._state.matching(resource)
        for watch in watches:
            watch.end()
        return len(watches)

    def do_watches(self, resource: str) -> int:
        """Return how many watches of a resource live and are not silenced."""
        return sum(not watch.silent for watch in self._state.matching(resource))

    def do_requests(self) -> list[Json]:
        """Return the requests read so far."""
        return [one._asdict() for one in self._state.seen]

    def do_forget_requests(self) -> None:
        """Begin the log of requests anew."""
        self._state.seen = []

    def do_events(self) -> list[Json]:
        """Return the Events posted so far."""
        return list(self._state.events)

    def do_address(self) -> Json:
        """Return where it listens and what clients need: port, scheme, CA file, token."""
        settings = self._state.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls else "http"
        return {
            "url": f"{scheme}://{host}:{self._listener.port}",
            "authority": str(self._authority.certificate) if self._authority else "",
            "token": self._state.auth.token,
        }

    def do_rotate_token(self) -> str:
        """Make another token the good one and return it; the one before gets 401."""
        return self._state.auth.rotate_token()

    def do_allow_token(self, token: str, user: str) -> None:
        """Take a token for `user`."""
        self._state.auth.allow_token(token, user)

    def do_revoke_token(self, token: str) -> None:
        """Answer 401 to a token."""
        self._state.auth.revoke_token(token)

    def do_allow_password(self, user: str, password: str) -> None:
        """Take a password for `user`."""
        self._state.auth.passwords[user] = password

    def do_client_certificate(self, user: str) -> list[str]:
        """Return the files of a new client certificate for `user`, and of its key."""
        if self._authority is None:
            raise ValueError("a server without TLS takes no client certificates: use a token")
        return [str(path) for path in self._authority.client(user)]

    def do_revoke_certificate(self, certificate: str) -> None:
        """Answer 401 to the client certificate in this file."""
        self._state.auth.revoke_certificate(Pair(Path(certificate), Path()).serial)

    def do_rotate_authority(self) -> str:
        """Present a certificate of a new CA to new connections; return the CA's file.

        Client certificates of the CA before are taken as well.
        """
        if self._context is None:
            raise ValueError("a server without TLS has no certificate to rotate")
        directory = Path(tempfile.mkdtemp(dir=self._directory.name))
        self._authority = Authority(directory)
        pair = self._server_pair(self._authority)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.load_verify_locations(self._authority.certificate)
        return str(self._authority.certificate)

    def do_forbid(self, resource: str, verb: str, user: str) -> None:
        """Answer 403; * stands for any."""
        self._state.auth.forbid(Denial(resource, verb, user))

    def do_permit(self, resource: str, verb: str, user: str) -> None:
        """Take a `forbid` back."""
        self._state.auth.permit(Denial(resource, verb, user))

    def _server_pair(self, authority: Authority) -> Pair:
        settings = self._state.settings
        return authority.server({settings.host, *settings.names})


async def opened(settings: Settings) -> Commands:
    """Return a server that listens; raises OSError, and RuntimeError without openssl."""
    commands = Commands(settings)
    try:
        await commands.do_start()
    except BaseException:
        await commands.close()
        raise
    return commands

# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server over the kubernetes client's transport, answered in bytes.

A Line belongs to one thread; only hang_up() may be called from others.
"""

from __future__ import annotations

import contextlib
import email.utils
import enum
import http.client
import math
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTClientObject
from urllib3.exceptions import HTTPError, ProxyError, ReadTimeoutError

from pyproxy.errors import SourceError
from pyproxy.kube.api_config import Access, Credentials
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.api_wire import Status, StatusDetails, status_in

# etcd holds no object of more than 1.5 MB, so no line of a watch is longer than this.
MAX_LINE_BYTES = 16 << 20
_CHUNK_BYTES = 64 << 10
_MOST_OF_AN_ERROR = 64 << 10
_MOST_DIGITS = 9

_Result = TypeVar("_Result")

# What the transport raises. ValueError: reading from a TLS socket that was shut down meanwhile,
# and URLs that are none.
_BROKEN = (HTTPError, http.client.HTTPException, ApiException, OSError, ValueError)


class Cause(enum.Enum):
    """Why there is no answer, by what follows from it."""

    UNREACHABLE = "unreachable"
    CREDENTIALS = "credentials"
    """There is nothing to show the server: a file or a plugin is at fault."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISSING = "missing"
    """404: the server has nothing at that path."""
    EXISTS = "exists"
    """409 to a POST: there is an object of that name."""
    WRONG = "wrong"
    """400, 413, 422: the request itself is at fault, and always will be."""
    EXPIRED = "expired"
    """410: the resourceVersion or the continue token is gone; list anew."""
    SILENT = "silent"
    """The connection is there and says nothing."""
    FAILING = "failing"


class ApiFailure(Exception):  # noqa: N818 - it is one; Error would say no more
    """A request failed. `since`: when it began, if that is longer ago (seconds since the epoch)."""

    def __init__(
        self, cause: Cause, message: str, retry_after_s: float = 0.0, since: float = 0.0
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.retry_after_s = retry_after_s
        self.since = since
        # TLS failed: a certificate may have ended.
        self.is_of_tls = False


class _Question(NamedTuple):
    """A request; `url` is without the server, `document` becomes a body in JSON.

    `is_short`: it is no watch, so that it says something how long it took.
    """

    method: str
    url: str
    document: Mapping[str, Any] | None
    silence_s: float
    is_short: bool = True


_DONE = {"GET": http.HTTPStatus.OK, "POST": http.HTTPStatus.CREATED}
_HEADERS: dict[str, dict[str, str]] = {"GET": {}, "POST": {"Content-Type": "application/json"}}


class Answer:
    """The body of an answer that is no failure.

    A context manager: leaving it drops the connection if need be, and calls `done`.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, done: Callable[[], None]) -> None:
        self._response = response
        self._done = done
        self._ended = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Keep the connection for the next request only if the body was read to its end."""
        if self._ended:
            self._response.release_conn()
        else:
            self._response.close()
        self._done()

    def read(self) -> bytes:
        """Return the whole body; raises ApiFailure."""
        body = _try(self._response.read)
        self._ended = True
        return body

    def lines(self) -> Iterator[bytes]:
        """Yield each whole line as it arrives, until the server ends the body.

        A line that is cut off is not yielded. Raises ApiFailure.
        """
        rest = b""
        while chunk := self._read_some():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE_BYTES:
                raise ApiFailure(Cause.FAILING, f"sends a line of over {MAX_LINE_BYTES} bytes")
        self._ended = True

    def _read_some(self) -> bytes:
        return _try(lambda: self._response.read1(_CHUNK_BYTES))


class Line:
    """One connection to the API server at a time, with the credentials of the moment.

    `connect_s` bounds connecting, in seconds. `meters` count what is asked.
    """

    def __init__(
        self, credentials: Credentials, connect_s: float, meters: ApiMeters | None = None
    ) -> None:
        self._credentials = credentials
        self._connect_s = connect_s
        self._meters = meters or ApiMeters()
        self._access: Access | None = None
        self._transport: Any = None  # a RESTClientObject, whose methods have no types
        self._connection: Any = None
        self._response: urllib3.BaseHTTPResponse | None = None

    @property
    def server(self) -> str:
        """The URL of the server that was asked last, "" before."""
        return self._access.configuration.host if self._access else ""

    def get(self, path: str, query: Mapping[str, str], silence_s: float) -> Answer:
        """Ask for a path; `silence_s` bounds each wait for more bytes. Raises ApiFailure.

        Credentials that are refused are read anew, and the request is made once more.
        """
        url, is_short = f"{path}?{urlencode(query)}", "watch" not in query
        return self._ask(_Question("GET", url, None, silence_s, is_short))

    def post(self, path: str, document: Mapping[str, Any], silence_s: float) -> None:
        """Create an object; otherwise as get(). Raises ApiFailure."""
        with self._ask(_Question("POST", path, document, silence_s)) as answer:
            answer.read()

    def hang_up(self) -> None:
        """End what the line's thread is waiting for, from another thread."""
        sock, response = getattr(self._connection, "sock", None), self._response
        with contextlib.suppress(*_BROKEN):
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
        # A body that ends with its connection has taken the socket from the connection.
        with contextlib.suppress(*_BROKEN, RuntimeError):
            if response is not None:
                response.shutdown()

    def close(self) -> None:
        """Give the connection back."""
        if self._transport is not None:
            self._transport.close()
        self._transport = self._connection = self._response = None

    def _access_now(self, get: Callable[[], Access]) -> Access:
        try:
            access = get()
        except SourceError as error:
            raise ApiFailure(Cause.CREDENTIALS, str(error)) from error
        if access is not self._access:
            # An old connection would go on as whoever its certificate named.
            self.close()
            self._access = access
        return access

    def _ask(self, question: _Question) -> Answer:
        done = self._timer(question)
        try:
            return Answer(self._answered(question), done)
        except ApiFailure:
            done()
            raise

    def _timer(self, question: _Question) -> Callable[[], None]:
        """Return what is to be called when all of a request is done."""
        started = time.monotonic()

        def done() -> None:
            if question.is_short and self._access:
                self._meters.took(question.method, self.server, time.monotonic() - started)

        return done

    def _answered(self, question: _Question) -> urllib3.BaseHTTPResponse:
        """Return an answer that is no failure."""
        access = self._access_now(self._credentials.current)
        response = self._request(access, question)
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            response.close()
            access = self._access_now(lambda: self._credentials.renew(access))
            response = self._request(access, question)
        if response.status != _DONE[question.method]:
            with contextlib.closing(response):
                raise _failure(response)
        return response

    def _request(self, access: Access, question: _Question) -> urllib3.BaseHTTPResponse:
        def ask() -> urllib3.BaseHTTPResponse:
            transport = self._transport = self._transport or self._new_transport(access)
            answer = transport.request(
                question.method,
                access.configuration.host + question.url,
                headers={**access.headers, **_HEADERS[question.method]},
                body=question.document,
                _request_timeout=(self._connect_s, question.silence_s),
            )
            response: urllib3.BaseHTTPResponse = answer.response
            return response

        try:
            self._response = response = _try(ask)
        except ApiFailure as failure:
            self._meters.asked(question.method, self.server, None)
            if failure.is_of_tls:
                self._access_now(lambda: self._credentials.renew(access))
            raise
        self._meters.asked(question.method, self.server, response.status)
        return response

    def _new_transport(self, access: Access) -> Any:
        transport = RESTClientObject(access.configuration)
        manager: Any = transport.pool_manager
        if access.context is not None:
            for key in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
                manager.connection_pool_kw.pop(key, None)
            manager.connection_pool_kw["ssl_context"] = access.context
        manager.pool_classes_by_scheme = {
            scheme: self._holding(make_pool)
            for scheme, make_pool in manager.pool_classes_by_scheme.items()
        }
        return transport

    def _holding(self, make_pool: Callable[..., Any]) -> Callable[..., Any]:
        """Return a maker of pools whose connections this line knows, to hang up on them."""

        def make(*args: Any, **options: Any) -> Any:
            pool = make_pool(*args, **options)
            connection_class = pool.ConnectionCls

            def connect(*args: Any, **options: Any) -> Any:
                self._connection = connection_class(*args, **options)
                return self._connection

            pool.ConnectionCls = connect
            return pool

        return make


def _try(call: Callable[[], _Result]) -> _Result:
    """Return what a call to the transport returns; raises ApiFailure for all that it raises.

    The agent runs without the garbage collector, so no exception may keep its own frame alive,
    nor may what the transport leaves behind (14 KB a failed request, in circles).
    """
    try:
        return call()
    except _BROKEN as error:
        failure = _failure_to_reach(error)
        _let_go(error)
    # Outside of the block, so that the failure does not remember the error.
    try:
        raise failure
    finally:
        del failure


def _failure_to_reach(error: Exception) -> ApiFailure:
    if isinstance(error, ReadTimeoutError):
        return ApiFailure(Cause.SILENT, "does not answer")
    way = " through its proxy" if isinstance(error, ProxyError) else ""
    failure = ApiFailure(Cause.UNREACHABLE, f"cannot be reached{way}: {_reason(error)}")
    failure.is_of_tls = isinstance(error, ApiException)
    return failure


def _let_go(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__context__


def _reason(error: Exception) -> str:
    """Return the innermost reason that says something: urllib3 wraps them."""
    found: BaseException = error
    while isinstance(inner := getattr(found, "reason", None) or found.__cause__, Exception):
        found = inner
    text = getattr(found, "strerror", None) or getattr(found, "reason", None) or str(found)
    return " ".join(str(text).split()) or type(found).__name__


_CAUSES = {
    400: Cause.WRONG,
    401: Cause.UNAUTHORIZED,
    403: Cause.FORBIDDEN,
    404: Cause.MISSING,
    409: Cause.EXISTS,
    410: Cause.EXPIRED,
    413: Cause.WRONG,
    422: Cause.WRONG,
}


def _failure(response: urllib3.BaseHTTPResponse) -> ApiFailure:
    text = _try(lambda: response.read(_MOST_OF_AN_ERROR))
    asked = response.headers.get("Retry-After", "")
    return failure_of(status_in(text), response.status, _retry_after(asked))


def _retry_after(asked: str) -> int:
    """Return the seconds that a header Retry-After asks for (RFC 9110 10.2.3), 0 if it is none."""
    # The length keeps hostile digits away from int().
    if asked.isascii() and asked.isdecimal():
        return int(asked) if len(asked) <= _MOST_DIGITS else 10**_MOST_DIGITS
    try:
        until = email.utils.parsedate_to_datetime(asked)
        return max(0, math.ceil(until.timestamp() - time.time()))
    except (TypeError, ValueError, OverflowError):
        return 0


def failure_of(status: Status, code: int, retry_after_s: int = 0) -> ApiFailure:
    """Return the failure that a Status tells of, by itself or as an event of a watch."""
    details = status.details or StatusDetails()
    cause = _CAUSES.get(code, Cause.FAILING)
    if status.version_is_too_large or status.reason in ("Expired", "Gone"):
        cause = Cause.EXPIRED
    said = f": {' '.join(status.message.split())}" if status.message else ""
    wait_s = max(retry_after_s, details.retry_after_seconds or 0)
    return ApiFailure(cause, f"answers {code}{said}", wait_s)

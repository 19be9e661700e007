# SPDX-License-Identifier: Apache-2.0
"""What the API server answers: bodies in its own JSON, and its Status documents.

Wordings, fields and their order are those of an API server 1.36, as recorded.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Json = dict[str, Any]

# Go's encoder writes these so that JSON may stand in HTML; they occur only inside strings.
HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Answer(NamedTuple):
    """A whole answer; `body` is compact JSON unless `content_type` says otherwise."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


class ApiError(Exception):
    """The request is refused with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


def compact(value: Any) -> bytes:
    """Return JSON as the API server writes it to programs, without the last line break."""
    return COMPACT.encode(value).translate(HTML).encode()


def pretty(body: bytes) -> bytes:
    """Return compact JSON as the API server writes it to people: two blanks, no last break."""
    text = json.dumps(json.loads(body), ensure_ascii=False, indent=2)
    return text.translate(HTML).encode()


def status(
    code: int, reason: str, message: str, details: Json | None = None, continue_: str = ""
) -> Json:
    """Return a Status document of a failure."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {"continue": continue_} if continue_ else {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        **({"details": details} if details is not None else {}),
        "code": code,
    }


def refusal(
    code: int,
    reason: str,
    message: str,
    details: Json | None = None,
    *,
    continue_: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> ApiError:
    """Return the error that answers with a Status document."""
    body = compact(status(code, reason, message, details, continue_)) + b"\n"
    return ApiError(Answer(code, body, headers))


def bad_request(message: str) -> ApiError:
    """400: the request makes no sense to the server."""
    return refusal(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no credentials, or not good ones."""
    return refusal(401, "Unauthorized", "Unauthorized")


def gone_text(revision: int, compacted: int) -> str:
    """Return the message about a watch from a resourceVersion that is gone."""
    return f"too old resource version: {revision} ({compacted})"


def gone(revision: int, compacted: int) -> Json:
    """Return the Status document of 410 for a watch."""
    return status(410, "Expired", gone_text(revision, compacted))


def too_large(revision: int, current: int) -> ApiError:
    """504: a list at a resourceVersion that the server has not reached."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return refusal(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {revision}, current: {current}",
        {"causes": [cause], "retryAfterSeconds": 1},
        headers=(("Retry-After", "1"),),
    )


def invalid_option(option: str, message: str) -> ApiError:
    """422: options of a list or watch that exclude each other."""
    cause = {"reason": "FieldValueForbidden", "message": f"Forbidden: {message}", "field": option}
    return refusal(
        422,
        "Invalid",
        f'ListOptions.meta.k8s.io "" is invalid: {option}: Forbidden: {message}',
        {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]},
    )


def fault_answer(code: int, retry_after: int | None) -> Answer:
    """Return what a server in trouble answers; 429 is plain text, as priority and fairness has it.

    `retry_after` (seconds) goes into the header and, where there is one, the Status document.
    """
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    if code == 429:
        text = b"Too many requests, please try again later.\n"
        return Answer(code, text, headers, "text/plain; charset=utf-8")
    reason, message = {
        401: ("Unauthorized", "Unauthorized"),
        403: ("Forbidden", "forbidden: the server says so"),
        410: ("Expired", "The resourceVersion for the provided watch is too old."),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
    }.get(code, ("InternalError", "Internal error occurred: a fault was asked for"))
    details = None if retry_after is None else {"retryAfterSeconds": retry_after}
    return refusal(code, reason, message, details, headers=headers).answer

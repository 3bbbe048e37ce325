"""Problems: how every refusal is answered (RFC 9457), and the one middleware that turns exceptions into answers.

Each bound and each check has a code of its own, so that a program can tell them apart; the words are for people. What went
wrong inside is logged and never told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from latentgraph.graph import InvalidWorkflow, Problem

from .. import errors

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:problem:latentgraph:"
"""What stands before the code in a problem's `type`."""

TITLES: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "The request can't be read"),
    "bad-host": (403, "The server does not go by this name"),
    "bad-origin": (403, "Pages of this origin may not do this"),
    "no-token": (401, "A token is needed"),
    "wrong-token": (401, "The token is not known"),
    "missing-scope": (403, "The token may not do this"),
    "not-found": (404, "There is nothing here"),
    "unknown-job": (404, "There is no such job"),
    "unknown-workflow": (404, "There is no such workflow"),
    "unknown-file": (404, "There is no such file"),
    "method-not-allowed": (405, "That can't be done here"),
    "not-acceptable": (406, "The answer has no such form"),
    "body-too-slow": (408, "The body came too slowly"),
    "idempotency-conflict": (409, "The idempotency key belongs to another request"),
    "id-taken": (409, "The id is taken"),
    "length-required": (411, "The length of the body is needed"),
    "changed": (412, "It is not what it was"),
    "too-large": (413, "The body is too large"),
    "document-too-large": (413, "The document is too large"),
    "upload-too-large": (413, "The file is too large"),
    "too-many-pixels": (413, "The picture has too many pixels"),
    "too-many-parts": (413, "The body has too many parts"),
    "too-many-workflows": (413, "There are too many stored workflows"),
    "url-too-long": (414, "The address is too long"),
    "unsupported-type": (415, "Content of this type is not taken"),
    "unsupported-encoding": (415, "Content of this encoding is not taken"),
    "bad-range": (416, "The range lies outside of the file"),
    "expectation-failed": (417, "The expectation can't be met"),
    "invalid-request": (422, "The request says something that can't be done"),
    "invalid-workflow": (422, "The workflow has errors"),
    "check-too-long": (422, "The workflow takes too long to check"),
    "damaged-file": (422, "The file is damaged"),
    "too-many-requests": (429, "Too many requests"),
    "too-many-streams": (429, "Too many streams are open"),
    "too-many-checks": (429, "Too many documents wait to be checked"),
    "too-many-connections": (429, "Too many connections are open"),
    "queue-full": (429, "The queue is full"),
    "quota-exceeded": (429, "The quota is used up"),
    "storage-full": (429, "There is no room for it"),
    "headers-too-large": (431, "The headers are too large"),
    "internal": (500, "The server failed"),
    "no-worker": (503, "No worker is warm yet"),
    "store-unavailable": (503, "The store can't be used now"),
    "draining": (503, "The server is shutting down"),
}
"""Every code with its status and its title."""

_BY_CLASS: Mapping[type[Exception], str] = {
    errors.UnknownJob: "unknown-job",
    errors.UnknownWorkflow: "unknown-workflow",
    errors.UnknownFile: "unknown-file",
    errors.IdempotencyConflict: "idempotency-conflict",
    errors.JobIdTaken: "id-taken",
    errors.InvalidDraft: "invalid-request",
    errors.QueueFull: "queue-full",
    errors.QuotaExceeded: "quota-exceeded",
    errors.StorageFull: "storage-full",
    errors.ContentRefused: "unsupported-type",
    errors.DamagedFile: "damaged-file",
    errors.StoreUnavailable: "store-unavailable",
    errors.StoreClosed: "draining",
}
_BY_STATUS: Mapping[int, str] = {
    400: "malformed",
    404: "not-found",
    405: "method-not-allowed",
    411: "length-required",
    413: "too-large",
    417: "expectation-failed",
}
_BEGUN = web.RequestKey("latentgraph.begun", bool)
_RETRY_SECONDS = {"no-worker": 5, "store-unavailable": 5, "draining": 10, "storage-full": 60}

_log = logging.getLogger(__name__)


class Refusal(errors.ServerError):
    """A request that is refused: a code of TITLES, words for a person, and what else the problem holds."""

    def __init__(self, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        self.code, self.status = code, TITLES[code][0]
        self.headers = dict(headers or {})
        self.members = members
        super().__init__(detail)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers whatever a handler raises with a problem; a client that went away gets nothing."""
    try:
        return await handler(request)
    except (ConnectionError, web.HTTPRedirection):
        raise
    except Exception as error:  # the last line before the client
        refusal = as_refusal(error)
        if refusal.status >= 500 and refusal.code == "internal":
            _log.exception("%s %s failed", request.method, request.path)
        if request.get(_BEGUN):
            raise ConnectionResetError("the answer broke off") from error
        return problem_response(refusal, instance=request.rel_url.raw_path)


def as_refusal(error: Exception) -> Refusal:
    """Returns how an exception is answered."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InvalidWorkflow):
        return invalid_workflow(error.problems)
    if isinstance(error, errors.FileTooLarge):
        return Refusal("too-many-pixels" if error.bound == "pixels" else "upload-too-large", _sentence(error))
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if isinstance(error, web.RequestPayloadError):
        return Refusal("malformed", f"The body can't be read: {error}.")
    code = next((code for kind, code in _BY_CLASS.items() if isinstance(error, kind)), "internal")
    if code == "internal":
        return Refusal(code, "The server failed to answer; its log says more.")
    retry = getattr(error, "retry_after_seconds", _RETRY_SECONDS.get(code))
    members = {"job": error.job} if isinstance(error, errors.IdempotencyConflict) else {}
    return Refusal(code, _sentence(error), headers=retry_after(retry), **members)


def invalid_workflow(problems: Sequence[Problem]) -> Refusal:
    """Returns the refusal of a document with errors: the whole report is inside."""
    count = sum(problem.severity == "error" for problem in problems)
    too_large = any(problem.code.startswith("limit-") for problem in problems)
    code = "document-too-large" if too_large else "invalid-workflow"
    first = next((problem for problem in problems if problem.severity == "error"), None)
    more = f" (and {count - 1} more)" if count > 1 else ""
    return Refusal(code, f"{first}{more}", problems=[problem.as_json() for problem in problems])


def retry_after(seconds: float | None) -> dict[str, str]:
    """Returns the header that says when to try again: whole seconds, at least one."""
    return {} if seconds is None else {"Retry-After": str(max(1, int(-(-seconds // 1))))}


def problem_response(refusal: Refusal, *, instance: str = "") -> web.Response:
    """Returns the answer to a refused request."""
    members = {name: value for name, value in refusal.members.items() if value is not None}
    body = {
        "type": TYPE + refusal.code,
        "title": TITLES[refusal.code][1],
        "status": refusal.status,
        "detail": str(refusal),
        **({"instance": instance[:200]} if instance else {}),
        "code": refusal.code,
        **members,
    }
    return web.Response(
        body=json.dumps(body).encode(),  # all ASCII, so that no text of a request can be one that has no encoding
        status=refusal.status,
        content_type=MEDIA_TYPE,
        headers=refusal.headers,
    )


async def note_begun(request: web.Request, response: web.StreamResponse) -> None:
    """Notes that an answer was begun, so that no other can be given. To be called when one is prepared."""
    request[_BEGUN] = True


def _of_http(error: web.HTTPException) -> Refusal:
    """Returns the refusal that stands for one of aiohttp's own."""
    code = _BY_STATUS.get(error.status, "malformed" if error.status < 500 else "internal")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Refusal(code, f"{error.method[:40]} is not done here; expected {allowed}.", headers={"Allow": allowed})
    words = {
        "not-found": "There is nothing at this address; /v1/openapi.json lists what there is.",
        "expectation-failed": "The only expectation that can be met is 100-continue.",
    }
    return Refusal(code, words.get(code, f"{error.reason}."))


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")

"""What can go wrong for a client: one exception a kind, each with the server's own sentence where there is one.

What is worth trying again was tried again before any of these is raised.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from socket import gaierror
from typing import Any

from latentgraph.graph import InvalidWorkflow, LatentGraphError, Problem
from latentgraph.graph.problems import Mark, Place

PROBLEM = "application/problem+json"
_WORDS = 500  # characters of a sentence of the server that are told


class ClientError(LatentGraphError):
    """A client can't do what it was asked to."""


class Unreachable(ClientError):
    """No server answers at the address; the message says what to check."""

    def __init__(self, url: str, cause: BaseException | str) -> None:
        self.url = url
        words = cause if isinstance(cause, str) else _reason(cause)
        super().__init__(f"{url} can't be reached: {words}; {_cure(cause)}")


class NotUnderstood(ClientError):
    """Something answers at the address that is no latentgraph server of a version that this one knows."""

    def __init__(self, url: str, found: str) -> None:
        self.url = url
        super().__init__(
            f"{url} gives {found}, as no latentgraph server does; check the address, and that both have like versions"
        )


class DamagedDownload(ClientError):
    """A file came and is not what the server says that it is."""


class Refused(ClientError):
    """The server refuses a request. status: of HTTP. code: the problem's, "" where a proxy answers in its stead."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        self.status, self.code = status, code
        super().__init__(sentence)


class NotAllowed(Refused):
    """A token is needed, is not known, or may not do this."""


class NotThere(Refused):
    """There is no such job, workflow or file, or it is somebody else's."""


class Conflict(Refused):
    """The request contradicts what the server has, as an idempotency key that came with another job before."""


class InvalidRequest(Refused):
    """The request says something that can't be done."""


class WorkflowRefused(InvalidRequest, InvalidWorkflow):
    """The workflow has errors; `problems` is the whole report."""

    def __init__(self, status: int, code: str, problems: Sequence[Problem]) -> None:
        InvalidWorkflow.__init__(self, problems)
        self.status, self.code = status, code


class Busy(Refused):
    """The server takes no more for now: its queue is full, a quota is used up, or it is shutting down.

    retry_after_seconds: when it says that there will be room, None if it doesn't.
    """

    def __init__(self, status: int, code: str, sentence: str, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(status, code, sentence)


class ServerFailed(Refused):
    """The server, or a proxy before it, failed to answer."""


def refusal(
    url: str, status: int, media_type: str, data: bytes, *, retry_after_seconds: float | None = None
) -> ClientError:
    """Returns the exception for an answer that is none of those that were hoped for."""
    problem = _problem(media_type, data)
    code = str(problem.get("code", ""))
    sentence = _sentence(problem, url, status)
    if 300 <= status < 400:
        return NotUnderstood(url, f"a redirection (HTTP {status}), which is not followed")
    if status in (429, 502, 503, 504):
        return Busy(status, code, sentence, retry_after_seconds)
    if status >= 500:
        return ServerFailed(status, code, sentence)
    report = problem.get("problems")
    if isinstance(report, list) and report:
        return WorkflowRefused(status, code, [_finding(item) for item in report if isinstance(item, dict)])
    kinds: Mapping[int, type[Refused]] = {401: NotAllowed, 403: NotAllowed, 404: NotThere, 409: Conflict}
    return kinds.get(status, InvalidRequest)(status, code, sentence)


def _problem(media_type: str, data: bytes) -> Mapping[str, Any]:
    if media_type != PROBLEM:
        return {}
    try:
        problem = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _sentence(problem: Mapping[str, Any], url: str, status: int) -> str:
    title, detail = (str(problem.get(name, ""))[:_WORDS].strip() for name in ("title", "detail"))
    if title and detail and not detail.startswith(title):
        return f"{title}: {detail}"
    if title or detail:
        return detail or title
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "no known status"
    return f"{url} answers {status} ({phrase}) and says no more; a proxy before the server may have its reason in a log"


def _finding(item: Mapping[str, Any]) -> Problem:
    """Returns a finding of the server's report; what is missing in it or of another type is left out."""

    def text(name: str) -> str | None:
        value = item.get(name)
        return value if isinstance(value, str) else None

    line, column = item.get("line"), item.get("column")
    mark = Mark(line, column) if isinstance(line, int) and isinstance(column, int) else None
    return Problem(
        text("code") or "",
        text("message") or "",
        Place(text("file"), mark),
        text("node"),
        text("input"),
        text("near"),
        "warning" if item.get("severity") == "warning" else "error",
        text("param"),
    )


def _reason(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return f"it does not speak TLS as expected ({cause.reason or cause})"
    if isinstance(cause, TimeoutError):
        return "it does not answer in time"
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(cause, gaierror):
        return f"its name can't be resolved ({cause.strerror})"
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return words or type(cause).__name__


def _cure(cause: BaseException | str) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "use the name that the certificate is for, or name its authority in SSL_CERT_FILE"
    if isinstance(cause, ssl.SSLError):
        return "check whether the address begins with http:// or https://"
    if isinstance(cause, gaierror):
        return "check the address for typing errors, and this machine's network"
    return "check that the server runs (`latentgraph serve`), and its address and port"

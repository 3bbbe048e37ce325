"""Logs: one JSON object a line, so that the lines about a job are found by its id; and the line that each request leaves.

Whoever logs passes `extra={"job": id, ...}`. A line holds no token and no body.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from aiohttp import web
from aiohttp.typedefs import Handler

from .api.parts import CALLER, JOB, parts_of

_STANDARD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))
_MAX_TEXT = 8_192

_log = logging.getLogger("latentgraph.server.requests")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, and whatever it was given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line; it is ASCII and has no line breaks, whatever the message holds."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()[:_MAX_TEXT]
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-_MAX_TEXT:]
        return json.dumps(line, default=str)


@contextmanager
def logging_json(stream: TextIO) -> Iterator[None]:
    """Has everything from INFO on logged as lines of JSON on a stream, in the place of what was set up before."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts and logs every request once it is answered, or once its client has gone."""
    begun = time.monotonic()
    status = 499  # the client went away: nobody has seen an answer
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        seconds = time.monotonic() - begun
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "none"
        parts_of(request).metrics.observe_request(_method(request), path, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s %s %d", _method(request), path, status, extra=_facts(request, seconds))


def _facts(request: web.Request, seconds: float) -> dict[str, Any]:
    caller = request.get(CALLER)
    facts = {"job": request.get(JOB), "owner": caller.owner if caller else None, "remote": request.remote}
    facts["milliseconds"] = round(seconds * 1000, 3)
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _method(request: web.Request) -> str:
    """Returns the method, or "other" for what is none, so that nobody fills the counts with names."""
    return request.method if request.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") else "other"

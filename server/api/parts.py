"""What the handlers work with: one frozen value in the app, put together by `app` from what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from ..files.thumbnails import Thumbnails
from ..files.uploads import FileStore
from ..jobs.store import JobStore
from ..tokens import Caller, TokenBook
from .catalogue import Catalogue
from .documents import Checker
from .intake import Intake
from .metrics import Metrics
from .rates import RateLimiter
from .routing import Need, Route
from .settings import Settings
from .streams import Streams

Explain = Callable[[str, Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]
"""Returns what a run of a document (JSON) with values for its parameters would do: node, type, status, tier, changes."""

ListModels = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
"""Returns the model files that documents can name: name, kind, family, problem."""

CheckWebhook = Callable[[str], Awaitable[None]]
"""Raises ServerError for an address that is not called."""


class WorkerView(Protocol):
    """A worker as it stands. state: "down", "starting", "idle" or "busy". memory: bytes by what holds them."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def rss_bytes(self) -> int: ...
    @property
    def memory(self) -> Mapping[str, int]: ...
    @property
    def starts(self) -> int: ...


class SupervisorView(Protocol):
    """What the API tells of the workers; it starts and stops none."""

    @property
    def ready(self) -> bool:
        """Whether a worker is warm."""
        ...

    @property
    def workers(self) -> Sequence[WorkerView]:
        """The workers as they stand."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a handler may need. What is None was not given: the routes that need it are not there."""

    store: JobStore
    supervisor: SupervisorView
    settings: Settings
    checker: Checker
    files: FileStore
    tokens: TokenBook
    rates: RateLimiter
    wrong_tokens: RateLimiter
    streams: Streams
    thumbnails: Thumbnails
    metrics: Metrics
    outputs: Path
    intake: Intake
    catalogue: Catalogue
    explain: Explain | None
    models: ListModels | None
    check_webhook: CheckWebhook | None
    by_handler: dict[object, Route] = field(default_factory=dict)
    open_handlers: set[object] = field(default_factory=set)

    def meet(self, need: Need | None) -> bool:
        """Returns whether what a route needs was given."""
        return need is None or getattr(self, need) is not None


PARTS = web.AppKey("latentgraph.parts", Parts)
CALLER = web.RequestKey("latentgraph.caller", Caller)
JOB = web.RequestKey("latentgraph.job", str)
"""Where a request keeps the id of the job that it is about, for the log."""


def parts_of(request: web.Request) -> Parts:
    """Returns what the handlers of a request's app work with."""
    return request.app[PARTS]


def caller_of(request: web.Request) -> Caller:
    """Returns who asks. `security` has found it out before any handler runs."""
    return request[CALLER]

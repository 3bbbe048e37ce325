"""What a job is: frozen values that the store, the workers and the API hand to each other.

Whoever holds one holds a snapshot; only the store changes a job. How values are written down is not known here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from ..clock import LAST_US
from ..errors import InvalidDraft
from .states import ENDED, JobState

T = TypeVar("T")

LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100
MAX_ATTEMPTS = 100

_JOB_ID = re.compile(r"[0-9a-f]{32}")


def is_job_id(text: str) -> bool:
    """Returns whether a text has the form of a job id: 32 hexadecimal digits, so that it is safe as a file name."""
    return _JOB_ID.fullmatch(text) is not None


def new_job_id(now_us: int) -> str:
    """Returns a new job id: a UUID of version 7 without hyphens, so that ids sort by the time they were made."""
    milliseconds, rest = divmod(now_us, 1000)
    fraction = rest * 4096 // 1000  # RFC 9562, section 6.2, method 3: more precise time in the bits after the version
    random = secrets.randbits(62)
    return f"{(milliseconds & (2**48 - 1)) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random:032x}"


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job as it is asked for. Raises InvalidDraft for what the store could not keep.

    document: the workflow as JSON text. params: its values, a JSON object. workflow: the stored workflow's name, or "".
    owner: the id of the token that asks, "" where there are no tokens. outputs: the names wanted, all if empty.
    deadline_us: when the result is no longer wanted. extra: JSON that belongs to the API which asks; kept, never read here.
    uploads: the digests of the uploads that it names, which are kept as long as the job is.
    body_sha256: what an idempotency key stands for. id: chosen by the client, 32 hexadecimal digits; None makes one.
    """

    document: str
    params: Mapping[str, Any] = field(default_factory=dict)
    workflow: str = ""
    owner: str = ""
    priority: int = 0
    deadline_us: int | None = None
    idempotency_key: str | None = None
    body_sha256: str = ""
    max_attempts: int = 3
    outputs: tuple[str, ...] = ()
    webhook: str | None = None
    uploads: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    def __post_init__(self) -> None:
        _check_integer("priority", self.priority, LOWEST_PRIORITY, HIGHEST_PRIORITY)
        _check_integer("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
        if self.deadline_us is not None:
            _check_integer("deadline_us", self.deadline_us, 0, LAST_US)
        if self.idempotency_key is not None and not (self.idempotency_key and self.body_sha256):
            raise InvalidDraft("an idempotency key must not be empty, and needs the digest of the body it stands for")
        if self.id is not None and not is_job_id(self.id):
            raise InvalidDraft(f"the id of a job has 32 hexadecimal digits in lower case, and {self.id!r} has not")
        for name in ("document", "workflow", "owner", "idempotency_key", "body_sha256", "webhook"):
            _check_text(name, getattr(self, name) or "")


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A published file of a job: its name inside the job's output folder, and what its bytes say it is.

    width, height: in pixels, if it is a raster picture.
    """

    name: str
    size: int
    sha256: str
    media_type: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What became of a node: "ran", "cached" (with the tier) or "skipped". seconds: what computing it took."""

    status: str
    tier: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job gave: files by output name, JSON values by output name, and what became of each node."""

    files: Mapping[str, tuple[OutputFile, ...]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, NodeOutcome] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Returns how many bytes the files take."""
        return sum(file.size for files in self.files.values() for file in files)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job, or an attempt of it, failed.

    code: a word for programs, such as "node_failed", "worker_lost" or "deadline". message: a sentence for people.
    node, node_type: where, if it was a node. detail: more for those who look closer.
    """

    code: str
    message: str
    node: str = ""
    node_type: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """The last that a running job told: `step` of `total` of a node; both are 0 before its first step."""

    node: str
    step: int = 0
    total: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stood at one moment. The first fields are those of its draft.

    number: its place in the order of all submits. attempt: the number of its latest attempt, 0 before the first; it names
    the attempt in every message. spent: the attempts that count against `max_attempts`; one that was put back, or that a
    restart of the server ended, does not. losses: the workers that died while they ran it.
    """

    id: str
    number: int
    document: str
    params: Mapping[str, Any]
    workflow: str
    owner: str
    priority: int
    deadline_us: int | None
    idempotency_key: str | None
    body_sha256: str
    max_attempts: int
    outputs: tuple[str, ...]
    webhook: str | None
    extra: Mapping[str, Any]
    state: JobState
    attempt: int = 0
    spent: int = 0
    losses: int = 0
    created_us: int = 0
    started_us: int | None = None  # when the latest attempt began
    ended_us: int | None = None
    not_before_us: int = 0
    cancel_requested: bool = False
    worker: str = ""
    outcome: Outcome | None = None
    error: JobError | None = None
    progress: Progress | None = None

    @property
    def ended(self) -> bool:
        """Returns whether nothing more will happen to it."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submit: the job, and whether it is new or the one that had the idempotency key."""

    job: Job
    created: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list. next: what to pass as `before` for the following page, None at the end."""

    items: tuple[T, ...]
    next: int | None = None


class EventKind(StrEnum):
    """What an event tells. The first group is written by the store with the change of state; the second comes from workers."""

    QUEUED = "queued"
    STARTED = "started"  # attempt, worker
    RETRYING = "retrying"  # why, not_before_us
    RESTARTED = "restarted"  # the server was
    PUT_BACK = "put_back"  # by a drain
    CANCEL_REQUESTED = "cancel_requested"  # why: "asked" or "deadline"
    FINISHED = "finished"  # state, error; the last event of every job

    PLANNED = "planned"  # nodes: how many the run needs at most, those that the cache has among them
    NODE_STARTED = "node_started"
    NODE_FINISHED = "node_finished"  # seconds
    NODE_CACHED = "node_cached"  # tier
    NODE_FAILED = "node_failed"
    PROGRESS = "progress"  # step, total, seconds_left
    WARNING = "warning"
    SAVED = "saved"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. data: JSON; what it holds goes by the kind. at_us: None takes the store's clock."""

    kind: EventKind
    data: Mapping[str, Any] = field(default_factory=dict)
    at_us: int | None = None


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event as it is kept: the events of a job count from 1 without gaps."""

    number: int
    kind: EventKind
    attempt: int
    at_us: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of a node's state so far, as the bytes of a JPEG. It is shown to watchers and never stored."""

    attempt: int
    node: str
    image: bytes


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The bounds of a queue.

    max_waiting: jobs that wait, in all. max_waiting_per_owner: of one token that has no number of its own; None is no bound.
    retry_first_seconds, retry_cap_seconds: the wait before the second attempt, doubled for each further one up to the cap.
    max_losses: workers that a job may kill before it is quarantined. max_events: what is kept of one job; past it, changes of
    state alone are. watcher_backlog: events that a watcher may be behind before it is cut off.
    """

    max_waiting: int = 10_000
    max_waiting_per_owner: int | None = None
    retry_first_seconds: float = 2.0
    retry_cap_seconds: float = 300.0
    max_losses: int = 2
    max_events: int = 100_000
    watcher_backlog: int = 1000


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidDraft(f"{name} is a whole number from {low} to {high}, and {value!r} is not")


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidDraft(f"{name} holds half a character (a lone surrogate), which is no text") from None

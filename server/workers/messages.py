"""What a server and its workers say to each other: one JSON object a line, over a socket that only the two of them hold.

Every message about a job names the job and the attempt, so one that comes late is never taken for another job. Who sends
what, and when, is not known here. What is no message of this version is refused as a whole: both ends come from one
installation, so nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from ..errors import MalformedMessage
from ..jobs.values import EventKind

T = TypeVar("T")

MAX_LINE_BYTES = 32 << 20
"""How long a line may be: a document at its limit, written as a JSON string, and the outcome of the largest graph fit."""

MAX_PREVIEW_BYTES = 1 << 20

MAX_TEXT = 16_384
"""How many characters of an error or a warning are told."""

Told = Literal[
    EventKind.PLANNED,
    EventKind.NODE_STARTED,
    EventKind.NODE_FINISHED,
    EventKind.NODE_CACHED,
    EventKind.NODE_FAILED,
    EventKind.PROGRESS,
    EventKind.WARNING,
    EventKind.SAVED,
]
"""The kinds of event that come from workers; the others are the store's to tell."""


class Message(BaseModel):
    """A line. A field that is not known makes it none."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_bytes="base64", val_json_bytes="base64"
    )


class _OfAttempt(Message):
    job: str
    attempt: int

    def same_attempt(self, other: _OfAttempt) -> bool:
        """Returns whether both messages are about one attempt of one job."""
        return (self.job, self.attempt) == (other.job, other.attempt)


class RunJob(_OfAttempt):
    """Server: run this. document: JSON. outputs: the names wanted, all if empty. output_dir: an empty folder to write into."""

    type: Literal["run"] = "run"
    document: str
    params: Mapping[str, Any] = {}
    outputs: tuple[str, ...] = ()
    output_dir: str
    previews: bool = False


class CancelJob(_OfAttempt):
    """Server: stop the attempt at its next step. If it is not the one that runs, this means nothing."""

    type: Literal["cancel"] = "cancel"


class Exit(Message):
    """Server: no more jobs come; end."""

    type: Literal["exit"] = "exit"


class Ready(Message):
    """Worker: warm, and waiting for jobs. device: what it computes on. versions: by package.

    environment: what changes its results apart from the document, as it goes into their keys.
    """

    type: Literal["ready"] = "ready"
    device: str
    versions: Mapping[str, str] = {}
    environment: str = ""


class Beat(Message):
    """Worker: alive. rss_bytes: the memory of the process; memory: bytes by what holds them, as the runner counts."""

    type: Literal["beat"] = "beat"
    rss_bytes: int = 0
    memory: Mapping[str, int] = {}


class EventTold(_OfAttempt):
    """Worker: something happened to a node, or to the job if `node` is empty. data: JSON; what it holds goes by the kind."""

    type: Literal["event"] = "event"
    kind: Told
    node: str = ""
    node_type: str = ""
    data: Mapping[str, Any] = {}

    @model_validator(mode="after")
    def _check_progress(self) -> Self:
        if self.kind is EventKind.PROGRESS and not all(type(self.data.get(name)) is int for name in ("step", "total")):
            raise ValueError("progress tells a step and a total, both whole numbers")
        return self


class PreviewMade(_OfAttempt):
    """Worker: what a node has so far, as a JPEG."""

    type: Literal["preview"] = "preview"
    node: str
    jpeg: Annotated[bytes, Field(max_length=MAX_PREVIEW_BYTES)]


class NodeReport(Message):
    """What became of a node; see NodeOutcome."""

    status: str
    tier: str = ""
    seconds: float = 0.0


class Failure(Message):
    """Why a job failed; see JobError. retry: whether it may go well another time."""

    code: str
    message: str
    node: str = ""
    node_type: str = ""
    detail: str = ""
    retry: bool = False


class Done(_OfAttempt):
    """Worker: the attempt is over, and nothing more comes of it.

    files: names inside the output folder, by output. values: JSON, by output. error: for a job that failed.
    """

    type: Literal["done"] = "done"
    status: Literal["succeeded", "failed", "cancelled"]
    files: Mapping[str, tuple[str, ...]] = {}
    values: Mapping[str, Any] = {}
    nodes: Mapping[str, NodeReport] = {}
    seconds: float = 0.0
    error: Failure | None = None


class Refused(_OfAttempt):
    """Worker: the attempt was not begun."""

    type: Literal["refused"] = "refused"
    reason: str


FromServer = RunJob | CancelJob | Exit
FromWorker = Ready | Beat | EventTold | PreviewMade | Done | Refused

_FROM_SERVER: TypeAdapter[FromServer] = TypeAdapter(Annotated[FromServer, Field(discriminator="type")])
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="type")])


def read_from_server(line: bytes) -> FromServer:
    """Returns the server's message in a line. Raises MalformedMessage."""
    return _read(_FROM_SERVER, line)


def read_from_worker(line: bytes) -> FromWorker:
    """Returns the worker's message in a line. Raises MalformedMessage."""
    return _read(_FROM_WORKER, line)


def write_line(message: Message) -> bytes:
    """Returns a message as a line. Raises MalformedMessage if it is too long.

    Half a character (a lone surrogate, as in the name of a file that is no UTF-8) becomes a question mark; a number that is
    not finite becomes null.
    """
    try:
        text = message.model_dump_json().encode()
    except PydanticSerializationError:
        text = _mended(message)
    if len(text) >= MAX_LINE_BYTES:
        kind = type(message).__name__
        raise MalformedMessage(f"a {kind} message has {len(text):,} bytes; at most {MAX_LINE_BYTES:,} are sent")
    return text + b"\n"


class Lines:
    """Makes lines of the pieces that a socket gives. Holds no more than one line that is not complete."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Returns the lines that a piece completes. Raises MalformedMessage for one that is too long."""
        lines: list[bytes] = []
        *ended, rest = piece.split(b"\n")
        for end in ended:
            self._add(end)
            lines.append(bytes(self._rest))
            self._rest.clear()
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._limit:
            raise MalformedMessage(f"a line has more than {self._limit:,} bytes")


def _mended(message: Message) -> bytes:
    """Returns a message as text although it holds what no text can."""
    try:
        text = json.dumps(message.model_dump(mode="python"), default=str)
    except (RecursionError, ValueError):  # the latter where it contains itself
        raise MalformedMessage(f"a {type(message).__name__} message is nested too deeply to be sent") from None
    tree = json.loads(text, parse_constant=lambda _: None)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _read(adapter: TypeAdapter[T], line: bytes) -> T:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = line[:120].decode("utf-8", "replace")
        raise MalformedMessage(f"{shown!r} is no message: {where + ': ' if where else ''}{first['msg']}") from None

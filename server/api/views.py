"""What the API gives, as pydantic models: answers are written by them, and OpenAPI is made from them.

Views are made from the store's values and hold nothing that is not meant to be seen: no path, no token, no document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from latentgraph.graph import Param, Problem
from latentgraph.graph.problems import Mark, Place

from ..files.uploads import PREFIX
from ..jobs.records import StoredWorkflow
from ..jobs.states import JobState
from ..jobs.uploads import StoredUpload

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class View(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class ProblemView(View):
    """One finding in a workflow."""

    code: str
    severity: Literal["error", "warning"]
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    node: str | None = None
    input: str | None = None
    near: str | None = None
    param: str | None = None

    @classmethod
    def of(cls, problem: Problem) -> ProblemView:
        return cls(**problem.as_json())

    def as_problem(self) -> Problem:
        """Returns the finding that this tells."""
        mark = None if self.line is None or self.column is None else Mark(self.line, self.column)
        place = Place(self.file, mark)
        return Problem(self.code, self.message, place, self.node, self.input, self.near, self.severity, self.param)


class ErrorView(View):
    """A refusal (RFC 9457)."""

    type: str = Field(description="urn:problem:latentgraph: and the code.")
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str
    problems: list[ProblemView] | None = Field(None, description="The report on a workflow with errors.")
    job: str | None = Field(None, description="The job that an idempotency key belongs to.")


class ParamView(View):
    """A parameter of a workflow, as a form needs it."""

    type: str
    required: bool
    default: Any = None
    description: str = ""
    expected: str
    min: float | None = None
    max: float | None = None
    multiple_of: float | None = None
    choices: list[Any] | None = None

    @classmethod
    def of(cls, param: Param) -> ParamView:
        return cls(
            type=param.type,
            required=param.required,
            default=None if param.required else param.default,
            description=param.description,
            expected=param.expected,
            min=param.minimum,
            max=param.maximum,
            multiple_of=param.multiple_of,
            choices=None if param.choices is None else list(param.choices),
        )


class WorkflowView(View):
    """A stored workflow."""

    name: str
    description: str
    params: dict[str, ParamView]
    outputs: list[str]
    media_type: str
    sha256: str
    updated: str
    href: str
    warnings: list[ProblemView] = []

    @classmethod
    def of(
        cls,
        stored: StoredWorkflow,
        description: str,
        params: Mapping[str, Param],
        outputs: Sequence[str],
        warnings: Sequence[Problem] = (),
    ) -> WorkflowView:
        return cls(
            name=stored.name,
            description=description,
            params={name: ParamView.of(param) for name, param in params.items()},
            outputs=list(outputs),
            media_type=stored.media_type,
            sha256=stored.sha256,
            updated=moment(stored.updated_us),
            href=f"/v1/workflows/{stored.name}",
            warnings=[ProblemView.of(problem) for problem in warnings],
        )


class WorkflowPage(View):
    """Some stored workflows, by name. next: what to give as `after` for the following page; null at the end."""

    items: list[WorkflowView]
    next: str | None


class ValidationView(View):
    """What a check of a workflow found."""

    valid: bool
    nodes: int
    outputs: list[str]
    problems: list[ProblemView]


class ExplanationView(View):
    """Whether a node would run: hit (with the tier), miss or not needed, and what changed since the last run."""

    node: str
    type: str
    status: str
    tier: str | None = None
    changes: list[str] = []


class ExplanationsView(View):
    """What a run would do, node by node."""

    nodes: list[ExplanationView]


class UploadView(View):
    """A file of the caller's. id: what an input such as LoadImage's `file` takes."""

    id: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None
    created: str
    href: str

    @classmethod
    def of(cls, upload: StoredUpload, width: int | None = None, height: int | None = None) -> UploadView:
        id = PREFIX + upload.sha256
        return cls(
            id=id,
            size=upload.size,
            media_type=upload.media_type,
            width=width,
            height=height,
            created=moment(upload.created_us),
            href=f"/v1/files/{id}",
        )


class QueueView(View):
    """The queue: how many jobs are in each state, and whether any are begun."""

    jobs: dict[JobState, int]
    paused: bool
    draining: bool


class HealthView(View):
    """Whether the server answers."""

    status: Literal["ok"] = "ok"


class ReadyView(View):
    """Whether jobs can be begun at once, and if not, why."""

    ready: bool
    reason: str = ""


def moment(us: int) -> str:
    """Returns a time as RFC 3339 writes it, in UTC; one past the year 9999 as its last moment."""
    try:
        at = _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        at = datetime.max.replace(tzinfo=UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

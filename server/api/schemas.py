"""What the API takes, as pydantic models: requests are checked by them, and OpenAPI is made from them.

What it gives is in `views`. Bodies are strict: an unknown key, a number written as text or a number that is none is refused.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..jobs.states import JobState
from ..jobs.values import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ATTEMPTS

WORKFLOW_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

WorkflowName = Annotated[str, StringConstraints(pattern=WORKFLOW_NAME)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Priority = Annotated[
    int,
    Field(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, description="Higher runs first; equal ones in the order they came."),
]
Deadline = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="Seconds from now after which the result is no longer wanted.")
]
Attempts = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS, description="How often the job may be tried.")]
Document = Annotated[
    dict[str, Any] | str,
    Field(description="A workflow: a JSON object, or its text in YAML.", examples=["latentgraph: 1\nnodes: ..."]),
]


class Request(BaseModel):
    """A JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """What stands behind the `?`; texts are read as what they should be."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Request):
    """A workflow to look at: its document, or the name under which it is stored; and values for its parameters."""

    document: Document | None = None
    workflow: WorkflowName | None = Field(None, description="The name of a stored workflow, in place of a document.")
    params: dict[str, Any] = Field({}, description="Values for the workflow's parameters.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Source:
        if (self.document is None) == (self.workflow is None):
            raise ValueError("give either 'document' or 'workflow'")
        return self


class JobRequest(Source):
    """A job to run."""

    outputs: tuple[Name, ...] = Field((), max_length=200, strict=False, description="The outputs wanted; all if none.")
    priority: Priority = 0
    deadline_seconds: Deadline | None = None
    max_attempts: Attempts = 3
    webhook: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="An address that is told when the job ends."
    )


class JobOptions(Query):
    """What a submit may say beside its body."""

    priority: Priority = 0
    deadline_seconds: Deadline | None = None
    max_attempts: Attempts = 3
    webhook: Annotated[str, StringConstraints(max_length=2000)] | None = None
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="Answer once the job has ended, or after so many seconds."
    )
    strip_metadata: bool = Field(False, description="Drop EXIF and the like of files that are sent along.")


class WaitQuery(Query):
    """How a job is asked for."""

    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="Answer once the job has ended, or after so many seconds."
    )


class JobsQuery(Query):
    """Which jobs are listed."""

    state: tuple[JobState, ...] = Field((), description="States; may be given several times. All if none.")
    workflow: WorkflowName | None = Field(None, description="The stored workflow that they ran.")
    before: Annotated[int, Field(ge=0, lt=1 << 63)] | None = Field(None, description="The `next` of the page before.")
    limit: Annotated[int, Field(ge=1, le=1_000)] | None = Field(None, description="How many jobs a page may have.")


class EventsQuery(Query):
    """From where on events are told."""

    after: Annotated[int, Field(ge=0, lt=1 << 63)] | None = Field(
        None, description="The number of the last event known."
    )
    previews: bool = Field(False, description="Tell previews, too; they are shown as they come, and never kept.")


class OutputQuery(Query):
    """Which file of an output."""

    index: Annotated[int, Field(ge=0, lt=1 << 31)] = Field(0, description="Its place among the files of the output.")
    download: bool = Field(False, description="As an attachment, pictures too.")


class PictureQuery(OutputQuery):
    """Which file of an output, and how large a picture is wanted."""

    thumbnail: Annotated[int, Field(ge=64, le=512, multiple_of=64)] | None = Field(
        None, description="A picture as WebP, fitted into a square of so many pixels."
    )


class UploadQuery(Query):
    """How an upload is kept."""

    strip_metadata: bool = Field(False, description="Drop EXIF, XMP, comments and thumbnails; no pixel changes.")


class WorkflowsQuery(Query):
    """Which workflows are listed."""

    after: str = Field("", max_length=200, description="The `next` of the page before.")
    limit: Annotated[int, Field(ge=1, le=1_000)] | None = None

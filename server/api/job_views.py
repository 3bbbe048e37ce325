"""What the API gives of jobs and of their events, as pydantic models; `views` has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

from ..jobs.states import JobState
from ..jobs.values import Job, NumberedEvent, OutputFile
from .views import View, moment


class FileView(View):
    """A file that a job gave."""

    name: str
    href: str
    size: int
    sha256: str
    media_type: str
    width: int | None = None
    height: int | None = None


class NodeOutcomeView(View):
    """What became of a node: ran, cached (with the tier), or skipped."""

    status: str
    tier: str = ""
    seconds: float = 0.0


class ProgressView(View):
    """The last that a running job told."""

    node: str
    step: int
    total: int
    seconds_left: float | None = None


class JobErrorView(View):
    """Why a job failed."""

    code: str
    message: str
    node: str = ""
    node_type: str = ""
    detail: str = ""


class JobView(View):
    """A job as it stands. Times are in UTC (RFC 3339)."""

    id: str
    state: JobState
    ended: bool
    workflow: str | None
    params: dict[str, Any]
    priority: int
    owner: str
    attempt: int
    max_attempts: int
    created: str
    started: str | None
    finished: str | None
    deadline: str | None
    cancel_requested: bool
    progress: ProgressView | None
    error: JobErrorView | None
    seconds: float | None
    outputs: dict[str, list[FileView]]
    values: dict[str, Any]
    nodes: dict[str, NodeOutcomeView]
    href: str

    @classmethod
    def of(cls, job: Job) -> JobView:
        outcome = job.outcome
        return cls(
            id=job.id,
            state=job.state,
            ended=job.ended,
            workflow=job.workflow or None,
            params=dict(job.params),
            priority=job.priority,
            owner=job.owner,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            created=moment(job.created_us),
            started=moment(job.started_us) if job.started_us is not None else None,
            finished=moment(job.ended_us) if job.ended_us is not None else None,
            deadline=moment(job.deadline_us) if job.deadline_us is not None else None,
            cancel_requested=job.cancel_requested,
            progress=ProgressView.model_validate(job.progress, from_attributes=True) if job.progress else None,
            error=JobErrorView.model_validate(job.error, from_attributes=True) if job.error else None,
            seconds=outcome.seconds if outcome else None,
            outputs={name: file_views(job.id, name, files) for name, files in outcome.files.items()} if outcome else {},
            values=dict(outcome.values) if outcome else {},
            nodes={
                id: NodeOutcomeView.model_validate(node, from_attributes=True)
                for id, node in (outcome.nodes if outcome else {}).items()
            },
            href=f"/v1/jobs/{job.id}",
        )


class JobPage(View):
    """Some jobs, the newest first. next: what to give as `before` for the following page; null at the end."""

    items: list[JobView]
    next: int | None


class EventView(View):
    """Something that happened to a job: its number within the job, counted from 1 without gaps."""

    number: int
    kind: str
    attempt: int
    at: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: NumberedEvent) -> EventView:
        return cls(
            number=event.number,
            kind=event.kind.value,
            attempt=event.attempt,
            at=moment(event.at_us),
            data=dict(event.data),
        )


class PreviewView(View):
    """What a node has so far: a JPEG in base64. It has no number."""

    kind: Literal["preview"] = "preview"
    attempt: int
    node: str
    jpeg: str


def file_views(job: str, output: str, files: Sequence[OutputFile]) -> list[FileView]:
    """Returns the files of an output with their addresses."""
    return [
        FileView(
            name=file.name,
            href=f"/v1/jobs/{job}/outputs/{quote(output, safe='')}" + (f"?index={index}" if index else ""),
            size=file.size,
            sha256=file.sha256,
            media_type=file.media_type,
            width=file.width,
            height=file.height,
        )
        for index, file in enumerate(files)
    ]

"""Routes of jobs: submit, list, look at, cancel, and fetch what they gave."""

from __future__ import annotations

import asyncio
import json
from typing import BinaryIO

from aiohttp import web

from ..errors import UnknownFile, UnknownJob
from ..files.content import RASTER
from ..files.thumbnails import MEDIA_TYPE as THUMBNAIL_TYPE
from ..files.uploads import open_inside
from ..jobs.values import Job, OutputFile, is_job_id
from .job_requests import read_job_request
from .job_views import JobPage, JobView
from .parts import JOB, caller_of, parts_of
from .problems import Refusal
from .routing import JSON, MULTIPART, YAML, Answer, Body, Route, json_response, read_query
from .schemas import JobOptions, JobRequest, JobsQuery, PictureQuery, WaitQuery
from .sending import FOR_EVER, is_known, send_file, send_picture
from .submitting import SUBMIT_PROBLEMS, refuse_while_draining, submit, wait_for


async def create_job(request: web.Request) -> web.Response:
    """Submit a job.

    The answer comes once the job is kept, whatever dies afterwards. The same Idempotency-Key with the same body gives the
    first job again.
    """
    options = read_query(request, JobOptions)
    refuse_while_draining(parts_of(request))
    return await submit(request, await read_job_request(request, options), options.wait)


async def list_jobs(request: web.Request) -> web.Response:
    """List jobs, the newest first."""
    query, parts = read_query(request, JobsQuery), parts_of(request)
    page = await parts.store.list(
        owner=caller_of(request).sees,
        states=query.state or None,
        workflow=query.workflow,
        before=query.before,
        limit=min(query.limit or parts.settings.page_size, parts.settings.largest_page),
    )
    return json_response(JobPage(items=[JobView.of(job) for job in page.items], next=page.next))


async def get_job(request: web.Request) -> web.Response:
    """Look at a job, or wait until it has ended."""
    query = read_query(request, WaitQuery)
    job = await wait_for(request, await own_job(request), query.wait)
    return json_response(JobView.of(job))


async def cancel_job(request: web.Request) -> web.Response:
    """Cancel a job.

    One that waits is cancelled at once, one that runs within a step, and one that has ended stays as it is. It may be repeated.
    """
    job = await parts_of(request).store.cancel((await own_job(request)).id)
    return json_response(JobView.of(job), 200 if job.ended else 202)


async def get_job_document(request: web.Request) -> web.Response:
    """Fetch the document that a job runs."""
    job = await own_job(request)
    return web.Response(body=job.document.encode(), content_type=JSON)


async def get_output(request: web.Request) -> web.StreamResponse:
    """Fetch an output of a job: a file, a picture in small, or a value as JSON."""
    query, job = read_query(request, PictureQuery), await own_job(request)
    name = request.match_info["name"]
    outcome = job.outcome
    if outcome is not None and name in outcome.values:
        return _value(outcome.values[name])
    files = outcome.files.get(name, ()) if outcome is not None else ()
    if query.index >= len(files):
        raise UnknownFile(_words(job, name, len(files)))
    file = files[query.index]
    if query.thumbnail is not None:
        return await _send_thumbnail(request, job, file, query.thumbnail)
    return await _send_output(request, job, file, query.download)


async def own_job(request: web.Request) -> Job:
    """Returns the job that a request names. Raises UnknownJob for one that is not the caller's, too."""
    id = request.match_info["id"]
    if not is_job_id(id):
        raise UnknownJob(id[:80])
    request[JOB] = id
    job = await parts_of(request).store.get(id)
    if not caller_of(request).may_see(job.owner):
        raise UnknownJob(id)
    return job


async def _send_thumbnail(request: web.Request, job: Job, file: OutputFile, side: int) -> web.Response:
    if file.media_type not in RASTER:
        raise Refusal("unsupported-type", f"The file {file.name!r} is no picture that is shown; it has no thumbnail.")
    etag = f"{file.sha256}-{side}"
    if is_known(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"', "Cache-Control": FOR_EVER})
    data = await parts_of(request).thumbnails.of(file.sha256, side, lambda: _open(request, job, file))
    return send_picture(data, THUMBNAIL_TYPE, etag)


def _open(request: web.Request, job: Job, file: OutputFile) -> BinaryIO:
    return open_inside(parts_of(request).outputs, (job.id, *file.name.split("/")))


async def _send_output(request: web.Request, job: Job, file: OutputFile, download: bool) -> web.StreamResponse:
    opened = await asyncio.to_thread(_open, request, job, file)
    return await send_file(
        request,
        opened,
        name=file.name,
        media_type=file.media_type,
        size=file.size,
        sha256=file.sha256,
        download=download,
    )


def _value(value: object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type=JSON)


def _words(job: Job, name: str, files: int) -> str:
    if not job.ended:
        return f"the job is {job.state.value} and has no outputs yet; wait for it with ?wait=30"
    if files:
        return f"the output {name[:80]!r} has {files} files, counted from index 0"
    known = ", ".join([*job.outcome.files, *job.outcome.values]) if job.outcome else ""
    return f"the job has no output {name[:80]!r}; it has {known[:400] or 'none'}"


_JOB = Answer("The job.", JobView)
_ACCEPTED = Answer("The job, which is kept and will run.", JobView, headers={"Location": "Where to ask for the job."})

ROUTES = (
    Route(
        "POST",
        "/v1/jobs",
        create_job,
        "jobs",
        "submit",
        {202: _ACCEPTED, 200: Answer("The job, which has ended while it was waited for.", JobView)},
        query=JobOptions,
        body=Body(
            JobRequest,
            {
                YAML: "The document alone.",
                MULTIPART: "The fields `request`, or `document`, `workflow` and `params`; a file is stored and given to the "
                "parameter of its field's name.",
            },
        ),
        headers={"Idempotency-Key": "A name for this submit, so that it may be repeated."},
        problems=(*SUBMIT_PROBLEMS, "document-too-large"),
    ),
    Route("GET", "/v1/jobs", list_jobs, "jobs", "read", {200: Answer("A page of jobs.", JobPage)}, query=JobsQuery),
    Route(
        "GET",
        "/v1/jobs/{id}",
        get_job,
        "jobs",
        "read",
        {200: _JOB},
        query=WaitQuery,
        problems=("unknown-job", "too-many-streams"),
    ),
    Route(
        "DELETE",
        "/v1/jobs/{id}",
        cancel_job,
        "jobs",
        "submit",
        {200: Answer("The job, which has ended.", JobView), 202: Answer("The job, which will stop.", JobView)},
        problems=("unknown-job",),
    ),
    Route(
        "GET",
        "/v1/jobs/{id}/document",
        get_job_document,
        "jobs",
        "read",
        {200: Answer("The document.", types=(JSON,))},
        problems=("unknown-job",),
    ),
    Route(
        "GET",
        "/v1/jobs/{id}/outputs/{name}",
        get_output,
        "jobs",
        "read",
        {
            200: Answer("The output.", types=(*sorted(RASTER), "application/octet-stream", JSON)),
            206: Answer("A part of the file.", types=("application/octet-stream",)),
            304: Answer("It is what it was."),
        },
        query=PictureQuery,
        problems=("unknown-job", "unknown-file", "bad-range", "unsupported-type", "damaged-file", "too-many-pixels"),
    ),
)
"""The routes of this module."""

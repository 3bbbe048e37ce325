"""Submitting: from what is asked for to a job in the store, and to what a check of a workflow says.

A job is accepted once its document was checked with its parameters and files; what a worker gets is what was checked.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

from aiohttp import web

from ..clock import SECOND_US
from ..jobs.records import StoredWorkflow
from ..jobs.values import Job, JobDraft, Submitted
from ..tokens import Caller
from .documents import Checked, Loaded
from .job_views import JobView
from .parts import JOB, Parts, caller_of, parts_of
from .problems import Refusal, retry_after
from .reading import canonical
from .routing import json_response
from .schemas import JobRequest, Source
from .streams import LOOK_SECONDS, is_there
from .uploading import owned_of

MAX_NAMED_UPLOADS = 1_000
"""How many uploads one workflow may name."""

SUBMIT_PROBLEMS = (
    "idempotency-conflict",
    "too-large",
    "upload-too-large",
    "too-many-pixels",
    "unsupported-type",
    "invalid-request",
    "invalid-workflow",
    "damaged-file",
    "queue-full",
    "draining",
)
"""The problems that any submit may be answered with, for OpenAPI."""


async def document_of(
    parts: Parts, source: Source, stored: StoredWorkflow | None = None
) -> str | dict[str, Any] | Loaded:
    """Returns the document of a source, read if it is that of a stored workflow. Raises InvalidWorkflow, UnknownWorkflow.

    stored: the workflow that the source names, if it was looked up before.
    """
    if source.workflow is not None:
        return await parts.checker.load_stored(stored or await parts.store.workflows.get(source.workflow))
    assert source.document is not None
    return source.document


async def check_source(
    parts: Parts, caller: Caller, source: Source, stored: StoredWorkflow | None = None
) -> tuple[Loaded, Checked]:
    """Returns the document of a source, and what a check of it with its values says. Raises InvalidWorkflow, UnknownWorkflow.

    It may name uploads of the caller's, and those that a stored workflow names. stored: see `document_of`.
    """
    first = await parts.checker.look(await document_of(parts, source, stored), source.params)
    if first.checked is not None:
        return first.loaded, first.checked
    named = first.loaded.digests | first.given
    if len(named) > MAX_NAMED_UPLOADS:
        words = f"The workflow names {len(named):,} uploads; at most {MAX_NAMED_UPLOADS:,} are taken."
        raise Refusal("invalid-request", words)
    known = await owned_of(parts, caller.sees, named)
    checked = await parts.checker.check(first.loaded, source.params, known)
    return first.loaded, replace(checked, uploads=named)


async def submit(
    request: web.Request, wanted: JobRequest, wait: float, stored: StoredWorkflow | None = None
) -> web.Response:
    """Takes a job into the queue and answers with it, once it is durable or, if asked to wait, once it has ended.

    stored: the workflow that is wanted, if it was looked up before.
    """
    parts = parts_of(request)
    refuse_while_draining(parts)
    key = _idempotency_key(request)
    body_sha256 = await parts.checker.in_thread(lambda: _digest(wanted)) if key else ""
    draft = JobDraft("", owner=caller_of(request).owner, idempotency_key=key, body_sha256=body_sha256)
    first = await parts.store.find_submitted(draft) if key else None
    submitted = Submitted(first, created=False) if first else await _submit_new(request, wanted, draft, stored)
    job = submitted.job
    request[JOB] = job.id
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if not submitted.created:
        headers["Idempotency-Replayed"] = "true"
    job = await wait_for(request, job, wait)
    return json_response(JobView.of(job), 200 if job.ended else 202, headers)


async def _submit_new(
    request: web.Request, wanted: JobRequest, draft: JobDraft, stored: StoredWorkflow | None
) -> Submitted:
    """Checks what is wanted, and takes it into the queue; `draft` knows whose it is and under which key."""
    parts = parts_of(request)
    loaded, checked = await check_source(parts, caller_of(request), wanted, stored)
    unknown = sorted(set(wanted.outputs) - set(checked.outputs))
    if unknown:
        known = ", ".join(checked.outputs) or "none"
        raise Refusal("invalid-request", f"There is no output {unknown[0][:80]!r}; known: {known[:400]}.")
    if wanted.webhook is not None:
        await _check_webhook(parts, wanted.webhook)
    complete = replace(
        draft,
        document=loaded.text,
        params=wanted.params,
        workflow=wanted.workflow or "",
        priority=wanted.priority,
        deadline_us=_deadline_us(parts, wanted.deadline_seconds),
        max_attempts=wanted.max_attempts,
        outputs=wanted.outputs,
        webhook=wanted.webhook,
        uploads=checked.uploads,
    )
    return await parts.store.submit(complete)


async def wait_for(request: web.Request, job: Job, seconds: float) -> Job:
    """Returns a job once it has ended, or as it is when the time is up or the client has gone."""
    if not seconds or job.ended:
        return job
    parts = parts_of(request)
    loop = asyncio.get_running_loop()
    until = loop.time() + min(seconds, parts.settings.longest_wait_seconds)
    with parts.streams.place(caller_of(request).owner):
        while not job.ended and (left := until - loop.time()) > 0 and is_there(request):
            job = await parts.store.wait_ended(job.id, min(left, LOOK_SECONDS))
    return job


def refuse_while_draining(parts: Parts) -> None:
    """Raises Refusal while the server shuts down."""
    if parts.intake.stopped:
        raise Refusal(
            "draining", "The server is shutting down; send the job again in a moment.", headers=retry_after(10)
        )


def _deadline_us(parts: Parts, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    longest = parts.settings.longest_deadline_seconds
    if seconds > longest:
        raise Refusal("invalid-request", f"deadline_seconds is longer than {longest:,.0f} s; leave it out for none.")
    return parts.store.clock() + int(seconds * SECOND_US)


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Refusal("malformed", "Idempotency-Key is given once and has 1 to 255 printable ASCII characters.")
    return key


def _digest(wanted: JobRequest) -> str:
    """Returns the digest of what was asked for; a file counts by its content."""
    return hashlib.sha256(canonical(wanted.model_dump()).encode()).hexdigest()


async def _check_webhook(parts: Parts, url: str) -> None:
    if parts.check_webhook is None:
        raise Refusal("invalid-request", "This server calls no webhooks; ask for the job's state or its events.")
    await parts.check_webhook(url)

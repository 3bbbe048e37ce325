"""Submitting: from a request in any of its forms to a job in the store, and to what a check of a workflow says.

A job is accepted once its document was checked with its parameters and files; what a worker gets is what was checked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from latentgraph.graph import Param

from .admission import find_first
from .bodies import (
    Part,
    field_of,
    form_of,
    parts_in,
    read_bytes,
    read_json_body,
    refuse_form,
    syntax_of,
    text_of,
    tree_of,
)
from .clock import SECOND_US
from .documents import Checked, Loaded, canonical
from .job_views import JobView
from .jobs import Job, JobDraft, Submitted
from .parts import JOB, Parts, caller_of, parts_of
from .problems import Refusal, retry_after
from .routing import JSON, MULTIPART, YAML, json_response, validated
from .schemas import JobOptions, JobRequest, Source
from .streams import LOOK_SECONDS, is_there
from .tokens import Caller
from .uploading import owned_of, take_upload

MAX_NAMED_UPLOADS = 1_000
"""How many uploads one workflow may name."""

_OPTIONS = ("priority", "deadline_seconds", "max_attempts", "webhook")


async def read_job_request(request: web.Request, options: JobOptions) -> JobRequest:
    """Returns the job that a request asks for: JSON, a document as YAML, or a form with files."""
    beside = options.model_dump(include=set(_OPTIONS) & options.model_fields_set)
    form = form_of(request)
    if form == "json":
        values = await read_json_body(request)
        if not isinstance(values, dict):
            raise Refusal("invalid-request", "The body is no JSON object; expected one with 'document' or 'workflow'.")
    elif form == "yaml":
        values = {"document": _text(await read_bytes(request, parts_of(request).settings.document.bytes))}
    elif form == "multipart":
        values = await _read_form(request, options.strip_metadata)
    else:
        raise refuse_form(request, JSON, YAML, MULTIPART)
    return validated(JobRequest, {**beside, **values}, "the body")


async def read_source(request: web.Request) -> Source:
    """Returns the workflow that a request wants looked at."""
    form = form_of(request)
    if form == "json":
        return validated(Source, await read_json_body(request), "the body")
    if form == "yaml":
        text = _text(await read_bytes(request, parts_of(request).settings.document.bytes))
        return validated(Source, {"document": text}, "the body")
    raise refuse_form(request, JSON, YAML)


async def read_params(request: web.Request, params: Mapping[str, Param], strip: bool) -> dict[str, Any]:
    """Returns the values of parameters that a request gives: a JSON object, or a form with texts and files."""
    if not request.can_read_body:
        return {}
    form = form_of(request)
    if form == "json":
        values = await read_json_body(request)
        if not isinstance(values, dict):
            raise Refusal("invalid-request", "The body is no JSON object; expected the workflow's parameters by name.")
        return values
    if form != "multipart":
        raise refuse_form(request, JSON, MULTIPART)
    given: dict[str, Any] = {}
    async for part in parts_in(request):
        if part.filename is not None:
            given[part.name] = await _take_file(request, part, strip)
        else:
            text = text_of(part, await field_of(part, parts_of(request).settings.body_bytes))
            given[part.name] = await _value(request, params.get(part.name), text)
    return given


async def load_source(parts: Parts, source: Source) -> Loaded:
    """Returns the document of a source. Raises InvalidWorkflow, UnknownWorkflow."""
    if source.document is not None:
        return await parts.checker.load(source.document)
    assert source.workflow is not None
    stored = await parts.store.workflows.get(source.workflow)
    return await parts.checker.load(stored.document, syntax_of(stored.media_type))


async def check_source(parts: Parts, caller: Caller, source: Source, loaded: Loaded) -> Checked:
    """Returns the document of a source, checked with its values. Raises InvalidWorkflow.

    It may name uploads of the caller's; a stored workflow may name others too, since an admin has stored it.
    """
    given = await parts.checker.digests(source.params)
    if len(loaded.digests) + len(given) > MAX_NAMED_UPLOADS:
        words = (
            f"The workflow names {len(loaded.digests) + len(given):,} uploads; at most {MAX_NAMED_UPLOADS:,} are taken."
        )
        raise Refusal("invalid-request", words)
    known = await owned_of(parts, None if source.workflow is not None else caller.sees, loaded.digests)
    return await parts.checker.check(loaded, source.params, known | await owned_of(parts, caller.sees, given))


async def submit(request: web.Request, wanted: JobRequest, wait: float) -> web.Response:
    """Takes a job into the queue and answers with it, once it is durable or, if asked to wait, once it has ended."""
    parts = parts_of(request)
    refuse_while_draining(parts)
    key = _idempotency_key(request)
    body_sha256 = await parts.checker.in_thread(lambda: _digest(wanted)) if key else ""
    draft = JobDraft("", owner=caller_of(request).owner, idempotency_key=key, body_sha256=body_sha256)
    first = await parts.store.database.read(partial(find_first, draft=draft)) if key else None
    submitted = Submitted(first, created=False) if first else await _submit_new(request, wanted, draft)
    job = submitted.job
    request[JOB] = job.id
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if not submitted.created:
        headers["Idempotency-Replayed"] = "true"
    job = await wait_for(request, job, wait)
    return json_response(JobView.of(job), 200 if job.ended else 202, headers)


async def _submit_new(request: web.Request, wanted: JobRequest, draft: JobDraft) -> Submitted:
    """Checks what is wanted, and takes it into the queue; `draft` knows whose it is and under which key."""
    parts = parts_of(request)
    loaded = await load_source(parts, wanted)
    checked = await check_source(parts, caller_of(request), wanted, loaded)
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


async def _read_form(request: web.Request, strip: bool) -> dict[str, Any]:
    """Returns the values of a form: `request` or `document`, `workflow` and `params`; files give parameters by their names."""
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    settings = parts_of(request).settings
    async for part in parts_in(request):
        if part.name in ("document", "workflow"):
            values[part.name] = text_of(part, await field_of(part, settings.document.bytes))
        elif part.name in ("params", "request"):
            tree = await tree_of(request, await field_of(part, settings.body_bytes))
            if not isinstance(tree, dict):
                raise Refusal("invalid-request", f"The field {part.name!r} is no JSON object.")
            values |= tree if part.name == "request" else {"params": tree}
        elif part.filename is not None:
            files[part.name] = await _take_file(request, part, strip)
        else:
            known = "document, workflow, params, request, and files by the name of their parameter"
            raise Refusal("invalid-request", f"There is no field {part.name[:40]!r}; known: {known}.")
    if files:
        params = values.get("params", {})
        values["params"] = {**params, **files} if isinstance(params, dict) else params
    return values


async def _take_file(request: web.Request, part: Part, strip: bool) -> str:
    received, _ = await take_upload(parts_of(request), caller_of(request), part.chunks, strip=strip)
    return received.id


async def _value(request: web.Request, param: Param | None, text: str) -> Any:
    """Returns what the text of a form stands for; a list is written as JSON."""
    if param is None:
        return text
    return await tree_of(request, text.encode()) if param.type == "list" else param.from_text(text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal("malformed", f"The document is not UTF-8: byte {error.start + 1}.") from error

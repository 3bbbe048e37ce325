"""Routes of stored workflows: each is an endpoint of its own, whose body is its parameters."""

from __future__ import annotations

import re

from aiohttp import web

from ..errors import UnknownWorkflow
from ..jobs.records import StoredWorkflow
from .bodies import form_of, read_bytes, refuse_form
from .documents import LATER, Checked, Loaded
from .job_requests import read_params
from .job_views import JobView
from .parts import Parts, caller_of, parts_of
from .problems import Refusal
from .reading import syntax_of
from .routing import JSON, MULTIPART, YAML, Answer, Body, Route, json_response, read_query, validated
from .schemas import WORKFLOW_NAME, JobOptions, JobRequest, Query, WorkflowsQuery
from .sending import disposition
from .submitting import SUBMIT_PROBLEMS, refuse_while_draining, submit
from .uploading import owned_of
from .views import WorkflowPage, WorkflowView

_NAME = re.compile(WORKFLOW_NAME)


async def list_workflows(request: web.Request) -> web.Response:
    """List the stored workflows, by name."""
    query, parts = read_query(request, WorkflowsQuery), parts_of(request)
    limit = min(query.limit or parts.settings.page_size, parts.settings.largest_page)
    stored = await parts.store.workflows.list(query.after, limit + 1)
    items = [await view_workflow(parts, workflow) for workflow in stored[:limit]]
    return json_response(WorkflowPage(items=items, next=stored[limit - 1].name if len(stored) > limit else None))


async def put_workflow(request: web.Request) -> web.Response:
    """Store a workflow under a name, in place of the one it had.

    It is checked as far as it can be without values for its parameters. Uploads that it names are kept as long as it is, and
    are for all who may read it.
    """
    parts, name = parts_of(request), request.match_info["name"]
    if not _NAME.fullmatch(name):
        words = "letters, digits, '.', '_' and '-', beginning with a letter or digit, 100 at most"
        raise Refusal("invalid-request", f"The name {name[:80]!r} can't be one of a workflow; expected {words}.")
    form = form_of(request)
    if form not in ("json", "yaml"):
        raise refuse_form(request, YAML, JSON)
    data = await read_bytes(request, parts.settings.document.bytes)
    loaded = await parts.checker.load(data, syntax_of(form))
    owned = await owned_of(parts, caller_of(request).sees, loaded.digests)
    checked = await parts.checker.check(loaded, {}, owned, forgive=LATER)
    await _check_room(parts, name)
    text, media_type = data.decode("utf-8-sig"), JSON if form == "json" else YAML
    stored, created = await parts.store.workflows.put(name, text, media_type, loaded.digests)
    headers = {"ETag": f'"{stored.sha256}"', "Location": f"/v1/workflows/{name}"}
    return json_response(_view(stored, loaded, checked), 201 if created else 200, headers)


async def get_workflow(request: web.Request) -> web.Response:
    """Fetch a stored workflow: as it was stored, or, for those who accept JSON alone, what is known of it."""
    read_query(request, Query)
    parts = parts_of(request)
    stored = await _stored(request)
    if any(tag.value in (stored.sha256, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers={"ETag": f'"{stored.sha256}"'})
    headers = {"ETag": f'"{stored.sha256}"', "Vary": "Accept"}
    if request.headers.get("Accept", "").partition(";")[0].strip() == JSON:
        return json_response(await view_workflow(parts, stored), headers=headers)
    suffix = "json" if stored.media_type == JSON else "yaml"
    headers["Content-Disposition"] = disposition(f"{stored.name}.{suffix}", attachment=True)
    return web.Response(body=stored.document.encode(), content_type=stored.media_type, charset="utf-8", headers=headers)


async def delete_workflow(request: web.Request) -> web.Response:
    """Remove a stored workflow. Jobs that ran it keep their documents."""
    await parts_of(request).store.workflows.delete((await _stored(request)).name)
    return web.Response(status=204)


async def run_workflow(request: web.Request) -> web.Response:
    """Submit a job that runs a stored workflow: the body is the values of its parameters."""
    options, parts = read_query(request, JobOptions), parts_of(request)
    refuse_while_draining(parts)
    stored = await _stored(request)
    loaded = await parts.checker.load_stored(stored)
    params = await read_params(request, loaded.document.params, options.strip_metadata)
    beside = options.model_dump(exclude={"wait", "strip_metadata"})
    wanted = validated(JobRequest, {**beside, "workflow": stored.name, "params": params}, "the request")
    return await submit(request, wanted, options.wait, stored)


async def view_workflow(parts: Parts, stored: StoredWorkflow) -> WorkflowView:
    """Returns what is known of a stored workflow without checking it."""
    return _view(stored, await parts.checker.load_stored(stored))


def _view(stored: StoredWorkflow, loaded: Loaded, checked: Checked | None = None) -> WorkflowView:
    document = loaded.document
    warnings = checked.warnings if checked else ()
    return WorkflowView.of(stored, document.description, document.params, tuple(document.outputs), warnings)


async def _stored(request: web.Request) -> StoredWorkflow:
    name = request.match_info["name"]
    if not _NAME.fullmatch(name):
        raise UnknownWorkflow(name[:80])
    return await parts_of(request).store.workflows.get(name)


async def _check_room(parts: Parts, name: str) -> None:
    """Raises Refusal if there are as many workflows as there may be, and none has the name."""
    limit = parts.settings.workflows
    stored = await parts.store.workflows.list("", limit)
    if len(stored) >= limit and all(workflow.name != name for workflow in stored):
        raise Refusal("too-many-workflows", f"There are {limit:,} stored workflows; remove one first.")


ROUTES = (
    Route(
        "GET",
        "/v1/workflows",
        list_workflows,
        "workflows",
        "read",
        {200: Answer("A page of workflows.", WorkflowPage)},
        query=WorkflowsQuery,
    ),
    Route(
        "PUT",
        "/v1/workflows/{name}",
        put_workflow,
        "workflows",
        "admin",
        {200: Answer("It took another's place.", WorkflowView), 201: Answer("It is new.", WorkflowView)},
        body=Body(None, {YAML: "The document.", JSON: "The document."}),
        problems=(
            "invalid-workflow",
            "document-too-large",
            "unsupported-type",
            "too-many-workflows",
            "invalid-request",
        ),
    ),
    Route(
        "GET",
        "/v1/workflows/{name}",
        get_workflow,
        "workflows",
        "read",
        {
            200: Answer("The document as it was stored, or what is known of it.", WorkflowView, (YAML,)),
            304: Answer("It is what it was."),
        },
        problems=("unknown-workflow",),
    ),
    Route(
        "DELETE",
        "/v1/workflows/{name}",
        delete_workflow,
        "workflows",
        "admin",
        {204: Answer("It is gone.")},
        problems=("unknown-workflow",),
    ),
    Route(
        "POST",
        "/v1/workflows/{name}",
        run_workflow,
        "workflows",
        "submit",
        {
            202: Answer("The job, which is kept and will run.", JobView, headers={"Location": "Where to ask for it."}),
            200: Answer("The job, which has ended while it was waited for.", JobView),
        },
        query=JobOptions,
        body=Body(
            None,
            {
                JSON: "Values by the names of the workflow's parameters.",
                MULTIPART: "The same as fields of a form; a file is stored, and given to the parameter of its field's name.",
            },
        ),
        headers={"Idempotency-Key": "A name for this submit, so that it may be repeated."},
        problems=("unknown-workflow", *SUBMIT_PROBLEMS),
    ),
)
"""The routes of this module."""

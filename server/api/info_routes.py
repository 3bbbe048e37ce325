"""Routes that tell: what a workflow would do, what there is, how the queue and the server stand."""

from __future__ import annotations

from aiohttp import web

from latentgraph.graph import InvalidWorkflow

from ..jobs.states import JobState
from .catalogue_views import FittingsView, FittingView, ModelsView, ModelView, NodeTypesView
from .job_requests import read_source
from .metrics import MEDIA_TYPE as METRICS_TYPE
from .metrics import Labels
from .parts import Parts, caller_of, parts_of
from .problems import as_refusal
from .routing import JSON, YAML, Answer, Body, Route, json_response
from .schemas import Source
from .submitting import check_source, document_of
from .try_page import PAGE, PAGE_POLICY
from .views import ExplanationsView, ExplanationView, HealthView, ProblemView, QueueView, ReadyView, ValidationView
from .workflow_routes import view_workflow

_MAX_DESCRIBED = 200  # stored workflows in OpenAPI


async def validate(request: web.Request) -> web.Response:
    """Check a workflow with values for its parameters; nothing runs."""
    source, parts = await read_source(request), parts_of(request)
    try:
        _, checked = await check_source(parts, caller_of(request), source)
    except InvalidWorkflow as error:
        problems = [ProblemView.of(problem) for problem in error.problems]
        return json_response(ValidationView(valid=False, nodes=0, outputs=[], problems=problems))
    problems = [ProblemView.of(problem) for problem in checked.warnings]
    view = ValidationView(valid=True, nodes=checked.nodes, outputs=list(checked.outputs), problems=problems)
    return json_response(view)


async def explain(request: web.Request) -> web.Response:
    """Tell what a run of a workflow would reuse and compute, and why; nothing runs."""
    source, parts = await read_source(request), parts_of(request)
    loaded, _ = await check_source(parts, caller_of(request), source)
    assert parts.explain is not None  # else there is no such route
    rows = await parts.explain(loaded.text, source.params)
    return json_response(ExplanationsView(nodes=[ExplanationView.model_validate(dict(row)) for row in rows]))


async def fitting(request: web.Request) -> web.Response:
    """Tell which of the server's model files fit the parameters of a workflow; nothing runs."""
    source, parts = await read_source(request), parts_of(request)
    found = await parts.checker.fitting(await document_of(parts, source), source.params)
    return json_response(FittingsView(params={name: FittingView.of(one) for name, one in found.items()}))


async def list_nodes(request: web.Request) -> web.Response:
    """List the node types that documents may use."""
    text, etag = await parts_of(request).catalogue.nodes()
    if any(f'"{tag.value}"' == etag for tag in request.if_none_match or ()):
        return web.Response(status=304, headers={"ETag": etag})
    return web.Response(body=text, content_type=JSON, headers={"ETag": etag})


async def list_models(request: web.Request) -> web.Response:
    """List the model files that documents can name."""
    list_them = parts_of(request).models
    assert list_them is not None  # else there is no such route
    items = [
        ModelView.model_validate({name: row.get(name) for name in ModelView.model_fields}) for row in await list_them()
    ]
    return json_response(ModelsView(items=items))


async def get_queue(request: web.Request) -> web.Response:
    """Look at the queue: how many jobs the caller has in each state, and whether any are begun."""
    parts = parts_of(request)
    return json_response(await _queue(parts, caller_of(request).sees))


async def pause_queue(request: web.Request) -> web.Response:
    """Begin no more jobs until the queue is resumed. Submits are still taken."""
    parts = parts_of(request)
    await parts.store.pause()
    return json_response(await _queue(parts, None))


async def resume_queue(request: web.Request) -> web.Response:
    """Let jobs begin again."""
    parts = parts_of(request)
    await parts.store.resume()
    return json_response(await _queue(parts, None))


async def get_openapi(request: web.Request) -> web.Response:
    """Fetch this description, with the stored workflows for those who may see them."""
    parts = parts_of(request)
    stored = await parts.store.workflows.list("", _MAX_DESCRIBED) if caller_of(request).may("read") else ()
    workflows = [await view_workflow(parts, workflow) for workflow in stored]
    return web.json_response(await parts.catalogue.api(workflows))


async def get_try_page(request: web.Request) -> web.Response:
    """Show a page to try the API; it loads nothing from elsewhere."""
    return web.Response(text=PAGE, content_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


async def get_health(request: web.Request) -> web.Response:
    """Tell whether the server answers."""
    return json_response(HealthView())


async def get_ready(request: web.Request) -> web.Response:
    """Tell whether jobs can be begun at once: a worker is warm, and the store can be read."""
    parts = parts_of(request)
    reason = ""
    if parts.intake.stopped:
        reason = "the server is shutting down"
    elif not parts.supervisor.ready:
        reason = "no worker is warm yet"
    else:
        try:
            await parts.store.counts()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server is not ready
            reason = str(as_refusal(error))
    return json_response(ReadyView(ready=not reason, reason=reason), 503 if reason else 200)


async def get_metrics(request: web.Request) -> web.Response:
    """Fetch what was counted, as Prometheus reads it."""
    parts = parts_of(request)
    text = parts.metrics.text(await _gauges(parts))
    return web.Response(body=text.encode(), headers={"Content-Type": METRICS_TYPE})


async def _queue(parts: Parts, owner: str | None) -> QueueView:
    counts = await parts.store.counts(owner)
    return QueueView(
        jobs={state: counts.get(state, 0) for state in JobState},
        paused=parts.store.paused,
        draining=parts.intake.stopped,
    )


async def _gauges(parts: Parts) -> dict[str, tuple[str, dict[Labels, float]]]:
    """Returns what stands now: words and values by labels, by name."""
    workers = parts.supervisor.workers
    memory: dict[Labels, float] = {}
    for worker in workers:
        for owner, held in worker.memory.items():
            memory[("worker", worker.name), ("owner", owner)] = held
    counts = await parts.store.counts()
    return {
        "jobs": (
            "Jobs that are kept, by state.",
            {(("state", state.value),): counts.get(state, 0) for state in JobState},
        ),
        "queue_paused": ("Whether no jobs are begun.", {(): float(parts.store.paused)}),
        "streams": ("Open event streams and long polls.", {(): float(len(parts.streams))}),
        "worker_ready": (
            "Whether a worker is warm.",
            {(("worker", worker.name),): float(worker.state in ("idle", "busy")) for worker in workers},
        ),
        "worker_starts": (
            "Processes that were started for a worker.",
            {(("worker", worker.name),): float(worker.starts) for worker in workers},
        ),
        "worker_rss_bytes": (
            "Memory of a worker's process.",
            {(("worker", worker.name),): float(worker.rss_bytes) for worker in workers},
        ),
        "memory_bytes": ("Memory of a worker, by what holds it.", memory),
    }


_SOURCE = Body(Source, {YAML: "The document alone."})
_SOURCE_PROBLEMS = ("unknown-workflow", "too-large", "document-too-large", "unsupported-type", "invalid-request")

ROUTES = (
    Route(
        "POST",
        "/v1/validate",
        validate,
        "workflows",
        "read",
        {200: Answer("What was found; a workflow with errors is an answer, too.", ValidationView)},
        body=_SOURCE,
        problems=_SOURCE_PROBLEMS,
    ),
    Route(
        "POST",
        "/v1/explain",
        explain,
        "workflows",
        "read",
        {200: Answer("What a run would do, node by node.", ExplanationsView)},
        body=_SOURCE,
        problems=(*_SOURCE_PROBLEMS, "invalid-workflow"),
        needs="explain",
    ),
    Route(
        "POST",
        "/v1/fitting",
        fitting,
        "workflows",
        "read",
        {200: Answer("The files that fit, by parameter.", FittingsView)},
        body=_SOURCE,
        problems=(*_SOURCE_PROBLEMS, "invalid-workflow"),
    ),
    Route(
        "GET",
        "/v1/nodes",
        list_nodes,
        "server",
        "read",
        {200: Answer("The node types.", NodeTypesView), 304: Answer("It is what it was.")},
    ),
    Route(
        "GET",
        "/v1/models",
        list_models,
        "server",
        "read",
        {200: Answer("The model files.", ModelsView)},
        needs="models",
    ),
    Route("GET", "/v1/queue", get_queue, "queue", "read", {200: Answer("The queue.", QueueView)}),
    Route("POST", "/v1/queue/pause", pause_queue, "queue", "admin", {200: Answer("The queue.", QueueView)}),
    Route("POST", "/v1/queue/resume", resume_queue, "queue", "admin", {200: Answer("The queue.", QueueView)}),
    Route("GET", "/v1/openapi.json", get_openapi, "server", None, {200: Answer("OpenAPI 3.1.", types=(JSON,))}),
    Route("GET", "/v1/docs", get_try_page, "server", None, {200: Answer("A page.", types=("text/html",))}),
    Route("GET", "/healthz", get_health, "server", None, {200: Answer("It does.", HealthView)}),
    Route(
        "GET",
        "/readyz",
        get_ready,
        "server",
        None,
        {200: Answer("They can.", ReadyView), 503: Answer("They can't, and why.", ReadyView)},
    ),
    Route("GET", "/metrics", get_metrics, "server", "read", {200: Answer("The counts.", types=("text/plain",))}),
)
"""The routes of this module."""

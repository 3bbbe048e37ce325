"""make_app: the HTTP side of a server, put together from what it is given. It opens, starts and ends nothing that it was given.

The way of a request: counted and logged; refusals become problems; Host, Origin and sizes; token, rate and scope; its handler.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from latentgraph.graph import Registry

from ..files.resolving import ServerResolver
from ..files.sweeping import remove_strays
from ..files.thumbnails import Thumbnails
from ..files.uploads import FileStore
from ..jobs.store import JobStore
from ..logs import log_requests
from ..tokens import TokenBook
from . import event_routes, file_routes, info_routes, job_routes, workflow_routes
from .catalogue import Catalogue
from .documents import Checker
from .intake import Intake
from .metrics import Metrics
from .parts import PARTS, CheckWebhook, Explain, ListModels, Parts, SupervisorView
from .problems import answer_problems, note_begun
from .rates import RateLimiter
from .routing import Handle, Route
from .security import add_headers, authenticate, expect, guard
from .settings import Settings
from .streams import Streams

ROUTES: tuple[Route, ...] = (
    *job_routes.ROUTES,
    *event_routes.ROUTES,
    *workflow_routes.ROUTES,
    *file_routes.ROUTES,
    *info_routes.ROUTES,
)
"""Every route of the API."""


def make_app(
    store: JobStore,
    supervisor: SupervisorView,
    settings: Settings,
    registry: Registry,
    resolver: ServerResolver,
    *,
    explain: Explain | None = None,
    models: ListModels | None = None,
    check_webhook: CheckWebhook | None = None,
    metrics: Metrics | None = None,
    intake: Intake | None = None,
    more_routes: Sequence[Route] = (),
) -> web.Application:
    """Returns the app of a server.

    registry: the node types that documents may use. resolver: what their file names stand for; its `uploads` is the folder of
    uploads. explain, models, check_webhook: without them the routes of the first two are not there, and webhooks are refused.
    metrics: counts the events of jobs and the requests. intake: stopped by whoever ends the server, so that no more jobs are
    taken. more_routes: served like the app's own.
    """
    routes: list[Route] = []
    parts = Parts(
        store=store,
        supervisor=supervisor,
        settings=settings,
        checker=Checker(registry, resolver, settings),
        files=FileStore(resolver.uploads, settings),
        tokens=TokenBook(store.tokens),
        rates=RateLimiter(settings.callers_remembered),
        wrong_tokens=RateLimiter(settings.callers_remembered),
        streams=Streams(settings.streams, settings.streams_per_owner),
        thumbnails=Thumbnails(),
        metrics=metrics or Metrics(),
        outputs=store.outputs,
        intake=intake or Intake(),
        catalogue=Catalogue(registry, routes),
        explain=explain,
        models=models,
        check_webhook=check_webhook,
    )
    store.listen(parts.metrics.observe_events)
    return _web_app(parts, routes, (*ROUTES, *more_routes))


def _web_app(parts: Parts, routes: list[Route], wanted: Sequence[Route]) -> web.Application:
    """Returns an app that serves the wanted routes whose parts are there; `routes` gets these."""
    largest = parts.settings.upload_bytes + parts.settings.body_bytes
    app = web.Application(middlewares=(log_requests, answer_problems, guard, authenticate), client_max_size=largest)
    app[PARTS] = parts
    for route in wanted:
        if parts.meet(route.needs):
            routes.append(route)
            _serve(app, parts, route)
    app.on_response_prepare.append(note_begun)
    app.on_response_prepare.append(add_headers)
    app.on_startup.append(_refuse_undeclared)
    app.on_startup.append(_clean)
    app.on_shutdown.append(_end_streams)
    app.on_cleanup.append(_close)
    return app


def serve_openly(app: web.Application, path: str, handler: Handle) -> None:
    """Serves a path of an app for anybody to GET, beside the API: it must tell nothing of the jobs and files that there are."""
    app[PARTS].open_handlers.add(handler)
    app.router.add_get(path, handler, expect_handler=expect)


def _serve(app: web.Application, parts: Parts, route: Route) -> None:
    parts.by_handler[route.handler] = route
    app.router.add_route(route.method, route.path, route.handler, expect_handler=expect)
    if route.method == "GET" and route.handler is not event_routes.watch_job:
        app.router.add_route("HEAD", route.path, route.handler, expect_handler=expect)


async def _refuse_undeclared(app: web.Application) -> None:
    """Raises RuntimeError for a handler that was added in another way, since nobody would ask who calls it."""
    parts = app[PARTS]
    for route in app.router.routes():
        if route.handler not in parts.by_handler and route.handler not in parts.open_handlers:
            place = route.resource.canonical if route.resource is not None else "?"
            raise RuntimeError(
                f"{route.method} {place} is served without a declaration of who may call it; give make_app a Route in "
                "more_routes, or use serve_openly for what is for anybody"
            )


async def _clean(app: web.Application) -> None:
    parts = app[PARTS]
    await remove_strays(parts.store.uploads, parts.files)


async def _end_streams(app: web.Application) -> None:
    app[PARTS].streams.close()


async def _close(app: web.Application) -> None:
    app[PARTS].checker.close()
    app[PARTS].thumbnails.close()

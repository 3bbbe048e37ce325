"""Serving: puts the server together from the store, the workers, the node types and this machine's folders, and runs it.

The process that serves imports no torch: what computes is in the workers, which are started as programs of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from latentgraph.graph import (
    DiskCache,
    Fingerprints,
    History,
    LatentGraphError,
    PlainCodec,
    all_key_parts,
    build_graph,
    cache_keys,
    document_from_tree,
    explain,
    make_plan,
)
from latentgraph.nodes import default_registry
from latentgraph.nodes.codec import TensorCodec
from latentgraph.server.api.app import make_app
from latentgraph.server.api.connections import BoundedRunner
from latentgraph.server.api.intake import Intake
from latentgraph.server.api.page_routes import add_page
from latentgraph.server.api.parts import PARTS
from latentgraph.server.api.problems import Refusal
from latentgraph.server.api.settings import Settings
from latentgraph.server.errors import StoreUnavailable
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.files.sweeping import sweep_uploads
from latentgraph.server.files.uploads import FileStore
from latentgraph.server.jobs.retention import RetentionPolicy, sweep
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.uploads import UploadPolicy
from latentgraph.server.tokens import TokenBook
from latentgraph.server.webhooks.addresses import AddressRules
from latentgraph.server.webhooks.calling import WebhookSender, WebhookSettings
from latentgraph.server.webhooks.signing import load_key
from latentgraph.server.workers.process import WorkerLimits, WorkerSlot
from latentgraph.server.workers.supervisor import Supervisor

from .engine import DISK_CAP_BYTES
from .folders import make_server_resolver
from .model_files import model_rows
from .seeding import seed

_SWEEP_SECONDS = 300.0
_BACKLOG = 1024
_LOG_BYTES = 32 << 20  # what the database's log comes to under load before it is begun anew

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `latentgraph serve` was asked for. hosts: names that the server is reached by. devices: one worker for each.

    origins: web pages of elsewhere that may use the API. webhook_networks: private networks that webhooks may call.
    node_seconds, worker_bytes: what a worker's node and a worker may take; see `WorkerLimits`.
    """

    host: str
    port: int
    data: Path
    devices: Sequence[str]
    models: Path
    precision: str
    cache_dir: Path
    hosts: frozenset[str]
    webhook_networks: Sequence[str]
    origins: frozenset[str] = frozenset()
    node_seconds: float = 3600.0
    worker_bytes: int | None = None

    @property
    def exposed(self) -> bool:
        """Whether others may reach the server: by its address, by a name, which a proxy passes on, or by pages of theirs."""
        try:
            return bool(self.hosts or self.origins) or not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return bool(self.hosts or self.origins) or self.host != "localhost"

    @property
    def settings(self) -> Settings:
        """The bounds of its HTTP side."""
        return Settings(open_on_loopback=not self.exposed, hosts=self.hosts, origins=self.origins)


async def run_server(options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or an interrupt, then drains. `ready` is told the address once submits are taken.

    Raises LatentGraphError if the address can't be bound, the data folder is in use, or a public address needs no token.
    """
    store = await JobStore.open(options.data)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await _check_exposure(store, options)
        slots = [WorkerSlot(f"worker-{i}", device) for i, device in enumerate(options.devices)]
        limits = WorkerLimits(node_timeout_seconds=options.node_seconds, memory_bytes=options.worker_bytes)
        supervisor = Supervisor(store, slots, _starter(options), limits=limits)
        rules = AddressRules.allowing(options.webhook_networks)
        sender = WebhookSender(store.webhooks, store.clock, load_key(options.data), WebhookSettings(rules=rules))
        intake, resolver = Intake(), make_server_resolver(options.models, options.data / "files")
        settings = options.settings
        app = make_app(
            store,
            supervisor,
            settings,
            default_registry(),
            resolver,
            explain=_explainer(options, supervisor, resolver),
            models=_model_lister(resolver),
            check_webhook=sender.check,
            intake=intake,
        )
        add_page(app)
        await _seed(store, app[PARTS].files)
        address = await stack.enter_async_context(_site(BoundedRunner(app, settings), options))
        await stack.enter_async_context(_swept(store, app[PARTS].files))
        stack.push_async_callback(sender.stop)
        await sender.start()
        stack.push_async_callback(supervisor.drain)
        await supervisor.start()
        stop = _stop_signal()
        ready(address)
        with contextlib.suppress(StoreUnavailable):  # it would only be faster
            await store.lengthen_log(_LOG_BYTES)
        await app[PARTS].catalogue.write()  # while the worker gets warm, so that no request waits for it
        await stop.wait()
        intake.stop()


async def _seed(store: JobStore, files: FileStore) -> None:
    """Stores the workflows that a server begins with. One that can't be given them begins without."""
    try:
        if names := await seed(store, files, default_registry()):
            _log.info("stored the workflows that a server begins with: %s", ", ".join(names))
    except (LatentGraphError, OSError) as error:
        _log.warning("the workflows that a server begins with can't be stored now (%s)", error)


async def _check_exposure(store: JobStore, options: ServeOptions) -> None:
    """Raises LatentGraphError for a server that others reach as long as anybody who reaches it may do everything."""
    if options.exposed and await TokenBook(store.tokens).is_empty():
        place = ", ".join(sorted(options.hosts | options.origins)) or options.host
        raise LatentGraphError(
            f"others reach the server by {place}, and may do everything as long as there is no token; make one first: "
            f"latentgraph token create --scope submit --data {options.data}"
        )


def _starter(options: ServeOptions) -> Callable[[WorkerSlot], Sequence[str]]:
    """Returns what gives the command line of a slot's worker."""

    def command(slot: WorkerSlot) -> Sequence[str]:
        program = [sys.executable, "-m", "latentgraph.cli.worker", "--device", slot.device]
        program += ["--precision", options.precision, "--models", str(options.models)]
        return [*program, "--cache-dir", str(options.cache_dir), "--uploads", str(options.data / "files")]

    return command


def _explainer(
    options: ServeOptions, supervisor: Supervisor, resolver: ServerResolver
) -> Callable[[str, Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]:
    """Returns what tells of a document what its run would reuse from the disk; what a worker has in memory is not known."""
    registry, folder = default_registry(), options.cache_dir
    fingerprints, history = Fingerprints(folder / "fingerprints"), History(folder / "history")
    disk = DiskCache(folder / "results", PlainCodec(TensorCodec()), DISK_CAP_BYTES)

    def rows(document: str, params: Mapping[str, Any], environment: str) -> Sequence[Mapping[str, Any]]:
        graph = build_graph(document_from_tree(json.loads(document)), registry, params=params, resolver=resolver)
        plan = make_plan(graph, cache_keys(graph, fingerprints, environment), disk.tier)
        return [asdict(one) for one in explain(plan, all_key_parts(plan, environment), history.last(graph))]

    async def answer(document: str, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        environment = next((worker.environment for worker in supervisor.workers if worker.environment), None)
        if environment is None:
            raise Refusal(
                "no-worker", "What a run would reuse goes by how a worker computes; ask again once /readyz is 200."
            )
        return await asyncio.to_thread(rows, document, params, environment)

    return answer


def _model_lister(resolver: ServerResolver) -> Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]:
    """Returns what lists the models, as they are told to others: without a path of this machine."""

    def told(row: Mapping[str, Any]) -> Mapping[str, Any]:
        path, problem = row["path"] or "", row["problem"]
        problem = problem.replace(path, row["name"]) if path and problem else problem
        return {"name": row["name"], "kind": row["kind"], "family": row["family"], "problem": problem}

    async def models() -> Sequence[Mapping[str, Any]]:
        return [told(row) for row in await asyncio.to_thread(model_rows, resolver)]

    return models


@contextlib.asynccontextmanager
async def _site(runner: BoundedRunner, options: ServeOptions) -> AsyncIterator[str]:
    """Listens for as long as the context lasts; gives the address."""
    await runner.setup()
    try:
        listener = _listen(options.host, options.port)
        await web.SockSite(runner, listener).start()
        host, port = listener.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address. Raises LatentGraphError if that can't be had."""
    with contextlib.ExitStack() as undo:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise LatentGraphError(
                f"{host}, port {port}, can't be listened on ({error.strerror or error}); choose others with --host and --port"
            ) from error
        undo.pop_all()
    return listener


@contextlib.asynccontextmanager
async def _swept(store: JobStore, files: FileStore) -> AsyncIterator[None]:
    """Removes old jobs and unused uploads now and then for as long as the context lasts."""
    task = asyncio.create_task(_keep_swept(store, files))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_swept(store: JobStore, files: FileStore) -> None:
    while True:
        try:
            await sweep(store, RetentionPolicy())
            await sweep_uploads(store.uploads, files, UploadPolicy())
        except (LatentGraphError, OSError) as error:
            _log.warning("old jobs and uploads can't be removed now (%s)", error)
        await asyncio.sleep(_SWEEP_SECONDS)


def _stop_signal() -> asyncio.Event:
    """Returns what SIGTERM and an interrupt set; a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop

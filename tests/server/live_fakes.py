"""What the tests of the client share: a server that is stopped and started again on its port and store, and what lies between
a client and a server that do not always hear each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from latentgraph.server.api.app import make_app
from latentgraph.server.api.connections import BoundedRunner
from latentgraph.server.api.intake import Intake
from latentgraph.server.api.parts import PARTS
from latentgraph.server.api.settings import Settings
from latentgraph.server.api.streams import Streams
from latentgraph.server.client import Client
from latentgraph.server.client.transport import Patience
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, Job, JobEvent, Outcome, OutputFile
from latentgraph.server.tokens import Scope, make_token

from .web_fakes import REGISTRY, FakeSupervisor

T = TypeVar("T")

ENDLESS = Patience(total=1e9, first=1e9)
"""The patience of a test that waits for what will come, however busy the machine is."""


def short_sleep(seconds: float) -> None:
    """Sleeps, and not for long."""
    time.sleep(min(seconds, 0.02))


class Live:
    """A server on a port of loopback. The test plays its workers."""

    def __init__(self, folder: Path, settings: Settings = Settings(), **options: Any) -> None:  # noqa: B008 - frozen
        self.folder, self._settings, self._options = folder, settings, options
        self.port = 0
        self.store: JobStore
        self.intake: Intake
        self.streams: Streams
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, token: str | None = None, patience: Patience = ENDLESS) -> Client:
        return Client(self.url, token, patience=patience, sleep=short_sleep)

    async def start(self) -> None:
        """Opens the store and serves it, on the port that it had."""
        self.store, self.intake = await JobStore.open(self.folder / "data"), Intake()
        resolver = ServerResolver(uploads=self.store.folder / "files", folders={"image": (self.folder / "pictures",)})
        app = make_app(
            self.store, FakeSupervisor(), self._settings, REGISTRY, resolver, intake=self.intake, **self._options
        )
        self.streams = app[PARTS].streams
        self._runner = BoundedRunner(app, self._settings, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Ends every connection and closes the store; a job that runs is left as it is. It may be repeated."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def new_token(self, *scopes: Scope, **quotas: Any) -> str:
        text, stored = make_token("a token", scopes, **quotas)
        await self.store.tokens.put(stored)
        return text

    async def claim(self) -> Job:
        """Takes the next job, as a worker does."""
        job = await self.store.claim("w0")
        assert job is not None
        return job

    async def tell_steps(self, job: Job, *steps: int, total: int = 100) -> None:
        for step in steps:
            event = JobEvent(EventKind.PROGRESS, {"node": "one", "step": step, "total": total})
            assert await self.store.append_events(job.id, job.attempt, [event]) == 1

    async def succeed(self, job: Job, files: Mapping[str, Mapping[str, bytes]] | None = None, **values: Any) -> None:
        """Ends a job well, with files by output and name."""
        folder = self.store.outputs / job.id
        published: dict[str, tuple[OutputFile, ...]] = {}
        for output, several in (files or {}).items():
            for name, data in several.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            published[output] = tuple(output_file(name, data) for name, data in several.items())
        assert await self.store.succeed(job.id, job.attempt, Outcome(published, values, seconds=0.5))


def output_file(name: str, data: bytes) -> OutputFile:
    """What a server says of a file."""
    import hashlib

    return OutputFile(name, len(data), hashlib.sha256(data).hexdigest(), "application/octet-stream")


@asynccontextmanager
async def living(folder: Path, settings: Settings = Settings(), **options: Any) -> AsyncIterator[Live]:  # noqa: B008
    """A server that is started, and stopped at the end."""
    live = Live(folder, settings, **options)
    await live.start()
    try:
        yield live
    finally:
        await live.stop()


async def aside(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Returns what a blocking function gives, while the loop of the test serves it."""
    return await asyncio.to_thread(lambda: work(*arguments, **options))


class Wire:
    """A wire to a server that lets so many bytes of each connection's answers through and then is cut.

    cuts: how many bytes, for one connection after another; after the last one everything passes.
    """

    def __init__(self, port: int, cuts: Sequence[int]) -> None:
        self._far, self._cuts = port, list(cuts)
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        left = self._cuts.pop(0) if self._cuts else None
        far_out: asyncio.StreamWriter | None = None
        sending: asyncio.Task[None] | None = None
        try:
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self._far)
            sending = asyncio.create_task(self._pass(near_in, far_out))
            while data := await far_in.read(1 << 14):
                near_out.write(data if left is None else data[:left])
                await near_out.drain()
                if left is not None and (left := left - len(data)) <= 0:
                    break
        except (OSError, asyncio.CancelledError):  # a cancelled task is one that the test has done with
            pass
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            for out in (near_out, far_out):
                if out is not None:
                    out.close()
                    with contextlib.suppress(OSError):
                        await out.wait_closed()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 14):
                target.write(data)
                await target.drain()


@dataclass
class Scripted:
    """A server that answers as it is told: a status, headers and a body for each request, the last one for all that follow."""

    answers: list[tuple[int, Mapping[str, str], bytes]]
    requests: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def scripted(*answers: tuple[int, Mapping[str, str], bytes]) -> Iterator[Scripted]:
    """Serves answers from a thread."""
    script = Scripted(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append((self.command, self.path, headers, body))
            status, given, data = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **given}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """Returns a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

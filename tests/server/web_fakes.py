"""What the tests of the API share: an app over a real store in a folder, a client of it, toy nodes, and no worker."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import Field
from yarl import URL

from latentgraph.graph import Context, FileInput, Known, LatentGraphError, Node, OutputFacts, Registry
from latentgraph.server.api.app import make_app
from latentgraph.server.api.connections import BoundedRunner
from latentgraph.server.api.parts import PARTS, Parts
from latentgraph.server.api.settings import Settings
from latentgraph.server.files.content import media_type
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import JobEvent, Outcome, OutputFile, QueueLimits
from latentgraph.server.tokens import Scope, make_token


class Number:
    """A value that travels along links."""


class Constant(Node, version=1):
    """Give a number."""

    value: float = Field(1.0, description="The number.")
    words: str = ""

    def run(self, ctx: Context) -> Number:
        return Number()


class Add(Node, version=1):
    """Add numbers."""

    a: Number
    b: Number | None = None

    def run(self, ctx: Context) -> Number:
        return Number()


class Save(Node, version=1, effect=True, lane="io"):
    """Write a number."""

    number: Number

    def run(self, ctx: Context) -> None:
        return None


class LoadPicture(Node, version=1):
    """Read a picture. Its file is opened when the document is checked."""

    file: Annotated[Path, FileInput("image")]

    def run(self, ctx: Context) -> Number:
        return Number()

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is not None and not path.read_bytes().startswith((b"\x89PNG", b"\xff\xd8\xff")):
            raise LatentGraphError(f"{path}: is no picture")
        return {}


class LoadModel(Node, version=1):
    """Read a model. Its file is opened when the document is checked."""

    file: Annotated[Path, FileInput("checkpoint")]

    def run(self, ctx: Context) -> Number:
        return Number()

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is not None and path.read_bytes() == b"damaged":
            raise LatentGraphError(f"{path}: is damaged")
        return {}


REGISTRY = Registry([Constant, Add, Save, LoadPicture, LoadModel])
DOCUMENT: dict[str, Any] = {"latentgraph": 1, "nodes": {"one": {"type": "Constant"}}, "outputs": {"number": "$one"}}
YAML = """\
latentgraph: 1
description: Give a number.
params:
  value: {type: number, min: 0, max: 10, default: 1.5, description: Which.}
  words: {type: string}
nodes:
  one: {type: Constant, value: $params.value, words: $params.words}
outputs:
  number: $one
"""
PICTURE_YAML = """\
latentgraph: 1
params:
  picture: {type: image_file, description: Which one.}
  seed: 7
nodes:
  load: {type: LoadPicture, file: $params.picture}
outputs:
  number: $load
"""


@dataclass
class FakeWorker:
    """A worker that computes nothing."""

    name: str = "w0"
    state: str = "idle"
    rss_bytes: int = 1_000
    memory: Mapping[str, int] = field(default_factory=lambda: {"weights": 400, "results": 100})
    starts: int = 1


@dataclass
class FakeSupervisor:
    """A supervisor whose workers are warm, or not."""

    ready: bool = True
    workers: list[FakeWorker] = field(default_factory=lambda: [FakeWorker()])


@dataclass
class Site:
    """An app that is served, and those who talk to it and stand behind it."""

    client: TestClient[web.Request, web.Application]
    app: web.Application
    store: JobStore
    supervisor: FakeSupervisor
    folder: Path
    token: str | None = None

    @property
    def parts(self) -> Parts:
        return self.app[PARTS]

    def of(self, token: str | None) -> Site:
        """Returns the site as the bearer of another token sees it."""
        return replace(self, token=token)

    async def new_token(self, *scopes: Scope, **quotas: Any) -> Site:
        """Returns the site as the bearer of a new token sees it."""
        text, stored = make_token("a token", scopes, **quotas)
        await self.store.tokens.put(stored)
        return self.of(text)

    async def ask(self, method: str, path: str | URL, **options: Any) -> ClientResponse:
        """Returns the answer to a request; the token goes with it."""
        headers = dict(options.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return await self.client.request(method, path, headers=headers, allow_redirects=False, **options)

    async def json(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """Returns the JSON of an answer, which must have a status."""
        async with await self.ask(method, path, **options) as response:
            assert response.status == status, await response.text()
            return await response.json(content_type=None) if status != 204 else None

    async def problem(self, method: str, path: str, status: int, code: str, **options: Any) -> dict[str, Any]:
        """Returns the problem that a request is refused with."""
        async with await self.ask(method, path, **options) as response:
            text = await response.text()
            assert (response.status, response.content_type) == (status, "application/problem+json"), text
            problem: dict[str, Any] = await response.json(content_type=None)
        assert (problem["status"], problem["code"]) == (status, code), problem
        return problem

    async def submit(self, document: Any = DOCUMENT, **more: Any) -> dict[str, Any]:
        """Returns a job that was accepted."""
        job: dict[str, Any] = await self.json("POST", "/v1/jobs", 202, json={"document": document, **more})
        return job

    async def upload(self, data: bytes, **options: Any) -> str:
        """Returns the content id of an upload."""
        answer = await self.json("POST", "/v1/files", 201, data=data, headers={"Content-Type": "image/png"}, **options)
        id: str = answer["id"]
        return id

    async def run_next(self, files: Mapping[str, Mapping[str, bytes]] | None = None, **values: Any) -> str:
        """Does a worker's work on the next job: publishes files by output and name; returns the job's id."""
        job = await self.store.claim("w0")
        assert job is not None
        folder = self.store.outputs / job.id
        folder.mkdir(parents=True)
        published: dict[str, tuple[OutputFile, ...]] = {}
        for output, several in (files or {}).items():
            for name, data in several.items():
                (folder / name).write_bytes(data)
            published[output] = tuple(
                OutputFile(name, len(data), hashlib.sha256(data).hexdigest(), media_type(data[:512]))
                for name, data in several.items()
            )
        assert await self.store.succeed(job.id, job.attempt, Outcome(published, values, seconds=0.5))
        return job.id

    async def run_away(self, id: str) -> None:
        """Puts a running job back and cancels it."""
        job = await self.store.get(id)
        await self.store.put_back(id, job.attempt)
        await self.store.cancel(id)

    async def tell(self, id: str, *events: JobEvent) -> None:
        """Tells events of a running job."""
        job = await self.store.get(id)
        assert await self.store.append_events(id, job.attempt, events) == len(events)


class BoundedTestServer(TestServer):
    """A test server with the connections of a real one."""

    async def _make_runner(self, **options: Any) -> BoundedRunner:
        return BoundedRunner(self.app, self.app[PARTS].settings)


@asynccontextmanager
async def serving(
    folder: Path,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    limits: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
    **options: Any,
) -> AsyncIterator[Site]:
    """Serves an app over a new store in a folder, on loopback; `options` are those of make_app."""
    store = await JobStore.open(folder / "data", limits=limits)
    try:
        (folder / "models").mkdir(exist_ok=True)
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "models" / "small.safetensors").write_bytes(b"model")
        resolver = ServerResolver(
            uploads=store.folder / "files",
            bundled={"checkpoint": {"emoji": folder / "models" / "small.safetensors"}},
            folders={"checkpoint": (folder / "models",), "image": (folder / "pictures",)},
            suffixes={"checkpoint": (".safetensors",)},
        )
        supervisor = FakeSupervisor()
        app = make_app(store, supervisor, settings, REGISTRY, resolver, **options)
        async with TestClient(BoundedTestServer(app)) as client:
            yield Site(client, app, store, supervisor, folder)
    finally:
        await store.close()


def png(width: int = 2, height: int = 2, *chunks: tuple[bytes, bytes], claim: tuple[int, int] | None = None) -> bytes:
    """Returns a grey picture, with further chunks behind its header; `claim` is what its header says of its size."""
    rows = b"".join(b"\0" + bytes(range(width)) for _ in range(height)) if claim is None else b""
    header = struct.pack(">IIBBBBB", *(claim or (width, height)), 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def pillow_picture(kind: str, **options: Any) -> bytes:
    """Returns a coloured picture as Pillow writes it."""
    from PIL import Image

    picture = Image.new("RGB", (24, 16))
    picture.putdata([(x * 10, y * 15, (x * y) % 256) for y in range(16) for x in range(24)])
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()

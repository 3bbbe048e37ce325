"""What the tests of the page share: the real app with nodes of familiar names, and a painter who stands in for a worker.

The painter works by hand: a test says when a node starts, a step is done, or a picture is there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from aiohttp import web
from aiohttp.test_utils import TestClient
from PIL import Image as Pillow

from latentgraph.graph import Context, FileInput, Known, LatentGraphError, Node, OutputFacts, Registry
from latentgraph.server.api.app import make_app
from latentgraph.server.api.page_routes import add_page
from latentgraph.server.api.settings import Settings
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, Job, JobError, JobEvent, NodeOutcome, Outcome, OutputFile, Preview

from .web_fakes import BoundedTestServer, FakeSupervisor, Site


class Thing:
    """Whatever travels along links here."""


class LoadCheckpoint(Node, version=1):
    """Load a model."""

    file: Annotated[Path, FileInput("checkpoint")]

    def run(self, ctx: Context) -> Thing:
        return Thing()


class LoadEditor(Node, version=1):
    """Load a model that edits, which is told by what is in its file."""

    file: Annotated[Path, FileInput("checkpoint")]

    def run(self, ctx: Context) -> Thing:
        return Thing()

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        path = known.file("file")
        if path is not None and path.read_bytes() != b"editor":
            raise LatentGraphError(f"{path}: edits nothing")
        return {}


class TextEncode(Node, version=1):
    """Read a text."""

    clip: Thing
    text: str

    def run(self, ctx: Context) -> Thing:
        return Thing()


class LoadImage(Node, version=1):
    """Read a picture."""

    file: Annotated[Path, FileInput("image")]

    def run(self, ctx: Context) -> Thing:
        return Thing()


class KSampler(Node, version=1):
    """Denoise."""

    model: Thing
    positive: Thing
    image: Thing | None = None
    seed: int = 0
    steps: int = 20
    strength: float = 1.0

    def run(self, ctx: Context) -> Thing:
        return Thing()


class VAEDecode(Node, version=1):
    """Decode."""

    vae: Thing
    latent: Thing

    def run(self, ctx: Context) -> Thing:
        return Thing()


REGISTRY = Registry([LoadCheckpoint, LoadEditor, TextEncode, LoadImage, KSampler, VAEDecode])

PAINT = """\
latentgraph: 1
name: paint
description: Paint a picture from words.
params:
  prompt: {type: string, default: a red apple, description: What to paint.}
  steps: {type: integer, default: 20, min: 1, max: 100, description: How many steps to take.}
  strength: {type: number, default: 1.0, min: 0, max: 1, description: How much to change.}
  style: {type: string, default: flat, choices: [flat, noto], description: The style.}
  sharp: {type: boolean, default: true, description: Whether edges are sharp.}
  seed: {type: seed, default: 7, description: Which noise to start from.}
  checkpoint: {type: checkpoint_file, default: emoji, description: The model.}
nodes:
  checkpoint: {type: LoadCheckpoint, file: $params.checkpoint}
  words: {type: TextEncode, clip: $checkpoint, text: $params.prompt}
  sample:
    type: KSampler
    model: $checkpoint
    positive: $words
    seed: $params.seed
    steps: $params.steps
    strength: $params.strength
  decode: {type: VAEDecode, vae: $checkpoint, latent: $sample}
outputs:
  image: $decode
"""

REPAINT = """\
latentgraph: 1
name: repaint
description: Repaint a part of a picture.
params:
  image: {type: image_file, description: The picture.}
  prompt: {type: string, default: a hat, description: What to paint.}
  seed: 7
nodes:
  checkpoint: {type: LoadCheckpoint, file: emoji}
  words: {type: TextEncode, clip: $checkpoint, text: $params.prompt}
  source: {type: LoadImage, file: $params.image}
  sample: {type: KSampler, model: $checkpoint, positive: $words, image: $source, seed: $params.seed}
  decode: {type: VAEDecode, vae: $checkpoint, latent: $sample}
outputs:
  image: $decode
"""


@asynccontextmanager
async def serving_page(folder: Path, settings: Settings = Settings()) -> AsyncIterator[Site]:  # noqa: B008 - frozen
    """Serves the app with the page over a new store, on loopback."""
    store = await JobStore.open(folder / "data")
    try:
        model = folder / "model.safetensors"
        model.write_bytes(b"model")
        bundled = {"checkpoint": {"emoji": model, "other": model}}
        folders = {"checkpoint": (folder / "models" / "checkpoints",)}
        resolver = ServerResolver(
            uploads=store.folder / "files", bundled=bundled, folders=folders, suffixes={"checkpoint": (".bin",)}
        )
        supervisor = FakeSupervisor()
        app = make_app(store, supervisor, settings, REGISTRY, resolver)
        add_page(app)
        client: TestClient[web.Request, web.Application]
        async with TestClient(BoundedTestServer(app)) as client:
            yield Site(client, app, store, supervisor, folder)
    finally:
        await store.close()


@dataclass
class Painter:
    """A worker with one job in hand, who does what it is told."""

    store: JobStore
    job: Job

    @classmethod
    async def take(cls, store: JobStore) -> Painter:
        """Takes the next job, which must be there."""
        job = await store.claim("w0")
        assert job is not None
        return cls(store, job)

    async def tell(self, kind: EventKind, **data: Any) -> None:
        """Tells an event of the job."""
        assert await self.store.append_events(self.job.id, self.job.attempt, [JobEvent(kind, data)]) == 1

    async def run(self, *nodes: str) -> None:
        """Runs nodes from start to end."""
        for node in nodes:
            await self.tell(EventKind.NODE_STARTED, node=node)
            await self.tell(EventKind.NODE_FINISHED, node=node, seconds=0.4)

    async def step(self, step: int, total: int, node: str = "sample") -> None:
        """Tells a step, with a second left for each that is to come."""
        await self.tell(EventKind.PROGRESS, node=node, step=step, total=total, seconds_left=float(total - step))

    def show(self, colour: tuple[int, int, int], node: str = "sample") -> None:
        """Shows a preview of one colour."""
        self.store.publish_preview(self.job.id, Preview(self.job.attempt, node, picture(colour, kind="JPEG")))

    async def finish(self, *pictures: bytes, **nodes: NodeOutcome) -> None:
        """Ends the job well, with PNGs as its image."""
        folder = self.store.outputs / self.job.id
        folder.mkdir(parents=True)
        files = []
        for index, data in enumerate(pictures):
            (folder / f"{index}.png").write_bytes(data)
            size = Pillow.open(io.BytesIO(data)).size
            sha256 = hashlib.sha256(data).hexdigest()
            files.append(OutputFile(f"{index}.png", len(data), sha256, "image/png", *size))
        outcome = Outcome({"image": tuple(files)}, nodes=nodes, seconds=1.6)
        assert await self.store.succeed(self.job.id, self.job.attempt, outcome)

    async def fail(self, message: str, node: str = "sample") -> None:
        """Ends the job badly."""
        await self.tell(EventKind.NODE_FAILED, node=node, message=message)
        error = JobError("node_failed", message, node=node, node_type="KSampler", detail="Traceback: line 1")
        await self.store.fail(self.job.id, self.job.attempt, error, retry=False)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """Returns a picture of one colour."""
    file = io.BytesIO()
    Pillow.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


async def store_workflow(site: Site, name: str = "paint", text: str = PAINT) -> None:
    """Stores a workflow."""
    async with await site.ask(
        "PUT", f"/v1/workflows/{name}", data=text, headers={"Content-Type": "application/yaml"}
    ) as response:
        assert response.status in (200, 201), await response.text()

"""The worker of a server: what an engine's run becomes as a job, and one real worker that paints, is stopped, and paints on."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from PIL import Image

from latentgraph.cli import Engine
from latentgraph.cli.folders import make_server_resolver
from latentgraph.cli.worker import EXIT_BROKEN_DEVICE, EngineRunner
from latentgraph.graph import Context, FileInput, LatentGraphError, Node, Registry
from latentgraph.nodes import default_registry
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, JobDraft, NumberedEvent, Preview
from latentgraph.server.workers.messages import Done, EventTold, Message, PreviewMade, RunJob
from latentgraph.server.workers.process import WorkerLimits, WorkerSlot
from latentgraph.server.workers.supervisor import Supervisor
from latentgraph.server.workers.worker import Cancellation, Report

from .conftest import PAINT

PATIENCE_SECONDS = 900.0
"""How long is waited for a process that imports torch on a machine that has other things to do."""


class Trouble(Node, version=1, lane="cpu"):
    """Fail in a way that can be chosen."""

    kind: Literal["refusal", "fault", "full", "memory", "device"]

    def run(self, ctx: Context) -> float:
        match self.kind:
            case "refusal":
                raise LatentGraphError(f"there is nothing at {ctx.output_dir}/cat.png")
            case "fault":
                raise ZeroDivisionError("a mistake")
            case "full":
                raise OSError(errno.ENOSPC, "No space left on device", str(ctx.output_dir / "cat.png"))
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            case "device":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Paint(Node, version=1, lane="device"):
    """Tell steps with pictures until the run is cancelled, or for so many."""

    steps: int

    def run(self, ctx: Context) -> float:
        for step in range(1, self.steps + 1):
            ctx.progress(step, self.steps, lambda: torch.full((8, 16, 3), 200, dtype=torch.uint8))
        ctx.warn(f"{ctx.output_dir}/draft is not kept")
        return self.steps / 2


class Look(Node, version=1):
    """Return the size of a picture's file."""

    file: Annotated[Path, FileInput("image")]

    def run(self, ctx: Context) -> int:
        return self.file.stat().st_size


class Stage:
    """A runner with an engine of its own, and all that it told."""

    def __init__(self, engine: Engine, runner: EngineRunner, folder: Path) -> None:
        self.engine, self.runner, self.folder = engine, runner, folder
        self.told: list[Message] = []
        self.cancellation = Cancellation()
        self.on_told: Callable[[Message], None] = lambda message: None

    def run(self, nodes: dict[str, Any], gives: dict[str, str], **fields: Any) -> Done:
        document = {"latentgraph": 1, "nodes": nodes, "outputs": gives, **fields.pop("tree", {})}
        job = RunJob(job="a", attempt=1, document=json.dumps(document), output_dir=str(self.folder), **fields)
        return self.runner.run(job, Report(job, self._tell), self.cancellation)

    def events(self, kind: EventKind) -> list[tuple[str, Any]]:
        return [(told.node, dict(told.data)) for told in self.told if isinstance(told, EventTold) and told.kind is kind]

    def _tell(self, message: Message) -> None:
        self.told.append(message)
        self.on_told(message)


@pytest.fixture
def stage(tmp_path: Path, make_engine: Callable[..., Engine]) -> Stage:
    registry = Registry([*default_registry().values(), Trouble, Paint, Look])
    resolver = make_server_resolver(tmp_path / "models", tmp_path / "uploads")
    engine = make_engine(registry=registry, resolver=resolver, device="cpu")
    folder = tmp_path / "attempt"
    folder.mkdir()
    return Stage(engine, EngineRunner(engine, {tmp_path / "models": "models", tmp_path / "uploads": "uploads"}), folder)


SOLID = {"type": "SolidMask", "width": 16, "height": 8, "value": 1.0}


def test_pictures_are_saved_and_values_are_told(stage: Stage) -> None:
    done = stage.run({"solid": SOLID, "paint": {"type": "Paint", "steps": 3}}, {"mask": "$solid", "half": "$paint"})
    assert (done.job, done.attempt, done.status) == ("a", 1, "succeeded")
    assert done.files == {"mask": ("mask_00001_.png",)}
    assert done.values == {"half": 1.5}
    assert {id: node.status for id, node in done.nodes.items()} == {"solid": "ran", "paint": "ran"}
    with Image.open(stage.folder / "mask_00001_.png") as picture:
        assert picture.size == (16, 8)


def test_what_nodes_save_goes_by_their_output_or_by_the_node(stage: Stage) -> None:
    nodes = {
        "solid": SOLID,
        "picture": {"type": "ImageFromMask", "mask": "$solid"},
        "save": {"type": "SaveImage", "image": "$picture", "prefix": "a/b"},
        "other": {"type": "ImageFromMask", "mask": "$solid"},
        "spare": {"type": "SaveImage", "image": "$other", "prefix": "c"},
    }
    done = stage.run(nodes, {"image": "$picture"})
    assert done.files == {"image": ("a/b_00001_.png",), "spare": ("c_00001_.png",)}
    assert sorted(stage.events(EventKind.SAVED)) == [
        ("save", {"name": "a/b_00001_.png"}),
        ("spare", {"name": "c_00001_.png"}),
    ]


def test_only_the_outputs_that_are_wanted_are_made(stage: Stage) -> None:
    nodes = {"solid": SOLID, "never": {"type": "Trouble", "kind": "fault"}}
    done = stage.run(nodes, {"mask": "$solid", "trouble": "$never"}, outputs=("mask",))
    assert (done.status, list(done.files)) == ("succeeded", ["mask"])
    done = stage.run(nodes, {"mask": "$solid"}, outputs=("musk",))
    assert done.error is not None
    assert "no output 'musk'" in done.error.message


def test_an_output_that_can_not_be_told_is_said_to_be_left_out(stage: Stage) -> None:
    done = stage.run({"latent": {"type": "EmptyLatent", "width": 64, "height": 64}}, {"latent": "$latent"})
    assert (done.status, done.files, done.values) == ("succeeded", {}, {})
    assert "neither picture nor JSON" in stage.events(EventKind.WARNING)[0][1]["message"]


def test_events_and_previews_are_told_as_the_run_goes(stage: Stage) -> None:
    stage.run({"paint": {"type": "Paint", "steps": 3}}, {"half": "$paint"}, previews=True)
    assert stage.events(EventKind.PLANNED) == [("", {"nodes": 1})]
    assert stage.events(EventKind.NODE_STARTED) == [("paint", {})]
    assert [data["step"] for _, data in stage.events(EventKind.PROGRESS)] == [1, 2, 3]
    assert stage.events(EventKind.WARNING) == [("paint", {"message": "output/draft is not kept"})]
    assert [node for node, _ in stage.events(EventKind.NODE_FINISHED)] == ["paint"]
    previews = [told for told in stage.told if isinstance(told, PreviewMade)]
    with Image.open(io.BytesIO(previews[0].jpeg), formats=["JPEG"]) as picture:
        assert picture.size == (16, 8)
    stage.told.clear()
    stage.run({"paint": {"type": "Paint", "steps": 2}}, {"half": "$paint"})
    assert not [told for told in stage.told if isinstance(told, PreviewMade)]
    stage.run({"paint": {"type": "Paint", "steps": 2}}, {"half": "$paint"})
    ((node, data),) = stage.events(EventKind.NODE_CACHED)
    assert (node, data["tier"]) == ("paint", "memory")


@pytest.mark.parametrize("early", [True, False])
def test_a_cancel_stops_a_run_at_its_next_step(stage: Stage, early: bool) -> None:
    def cancel_elsewhere(message: Message) -> None:
        if isinstance(message, EventTold) and message.kind is EventKind.PROGRESS:
            thread = threading.Thread(target=stage.cancellation.ask)
            thread.start()
            thread.join()

    if early:
        stage.cancellation.ask()
    else:
        stage.on_told = cancel_elsewhere
    done = stage.run({"paint": {"type": "Paint", "steps": 1_000_000_000}, "solid": SOLID}, {"half": "$paint"})
    assert (done.status, done.files) == ("cancelled", {})
    assert len(stage.events(EventKind.PROGRESS)) <= 1


@pytest.mark.parametrize(
    ("kind", "message", "retry"),
    [
        ("refusal", "LatentGraphError: there is nothing at output/cat.png", False),
        ("fault", "ZeroDivisionError: a mistake", False),
        ("full", "No space left on device: 'output/cat.png'", True),
        ("memory", "CUDA out of memory", True),
    ],
)
def test_a_failure_is_told_with_its_node_and_without_a_path_of_this_machine(
    stage: Stage, kind: str, message: str, retry: bool
) -> None:
    done = stage.run({"trouble": {"type": "Trouble", "kind": kind}}, {"none": "$trouble"})
    error = done.error
    assert error is not None
    assert (done.status, error.code, error.node, error.node_type) == ("failed", "node_failed", "trouble", "Trouble")
    assert message in error.message
    assert error.retry is retry
    assert str(stage.folder) not in f"{error}{stage.told}"
    assert stage.run({"solid": SOLID}, {"mask": "$solid"}).status == "succeeded"


def test_a_broken_device_ends_the_worker(stage: Stage) -> None:
    with pytest.raises(SystemExit) as ending:
        stage.run({"trouble": {"type": "Trouble", "kind": "device"}}, {"none": "$trouble"})
    assert ending.value.code == EXIT_BROKEN_DEVICE


def test_a_document_that_is_not_valid_any_more_fails_with_its_report(stage: Stage, tmp_path: Path) -> None:
    done = stage.run({"look": {"type": "Look", "file": "cat.png"}}, {"size": "$look"})
    assert done.error is not None
    assert done.error.code == "invalid_workflow"
    assert "there is no image 'cat.png' on the server" in done.error.message
    assert str(tmp_path) not in done.error.message


def test_files_are_uploads_by_their_content_and_never_paths(stage: Stage, tmp_path: Path) -> None:
    digest = "ab" * 32
    path = make_server_resolver(tmp_path, tmp_path / "uploads").uploads / digest[:2] / digest
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")
    nodes = {"look": {"type": "Look", "file": "$params.picture"}}
    tree = {"params": {"picture": {"type": "image_file"}}}
    done = stage.run(nodes, {"size": "$look"}, tree=tree, params={"picture": f"sha256:{digest}"})
    assert done.values == {"size": path.stat().st_size}
    for name in (str(path), "../uploads", "/etc/hostname"):
        assert stage.run(nodes, {"size": "$look"}, tree=tree, params={"picture": name}).status == "failed"


def test_memory_is_counted_by_what_holds_it_and_let_go(stage: Stage) -> None:
    assert stage.runner.memory() == {"weights": 0, "results": 0}
    stage.run({"solid": SOLID}, {"mask": "$solid"})
    assert stage.runner.memory()["results"] > 0
    stage.engine.free_memory()
    assert stage.runner.memory() == {"weights": 0, "results": 0}


def starter(folder: Path) -> Callable[[WorkerSlot], Sequence[str]]:
    options = ["--models", str(folder / "models"), "--uploads", str(folder / "data" / "files")]
    options += ["--cache-dir", str(folder / "cache"), "--device"]
    return lambda slot: [sys.executable, "-m", "latentgraph.cli.worker", *options, slot.device]


def paint_job(**params: Any) -> JobDraft:
    import yaml

    return JobDraft(json.dumps(yaml.safe_load(PAINT.replace("CHECKPOINT", "tiny"))), params=params)


async def test_a_real_worker_paints_stops_when_told_to_and_the_next_goes_on_from_the_cache_if_it_is_killed(
    tmp_path: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    shutil.copy(tiny_sd1, tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    seconds = {field.name: PATIENCE_SECONDS for field in dataclasses.fields(WorkerLimits) if "seconds" in field.name}
    store = await JobStore.open(tmp_path / "data")
    supervisor = Supervisor(store, [WorkerSlot("cpu-0", "cpu")], starter(tmp_path), limits=WorkerLimits(**seconds))
    await supervisor.start()
    try:
        long = (await store.submit(paint_job(steps=10_000))).job.id
        async with asyncio.timeout(PATIENCE_SECONDS), store.watch(long) as watcher:
            async for item in watcher:
                if isinstance(item, Preview):
                    assert item.image.startswith(b"\xff\xd8\xff")
                    break
        pid = supervisor.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        cached: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_SECONDS), store.watch(long) as watcher:
            async for item in watcher:
                if isinstance(item, Preview) and item.attempt == 2:
                    break
                if isinstance(item, NumberedEvent) and item.attempt == 2 and item.kind is EventKind.NODE_CACHED:
                    cached[item.data["node"]] = item.data["tier"]
        assert cached.items() >= {"positive": "disk", "negative": "disk"}.items()
        await store.cancel(long)
        assert (await store.wait_ended(long, PATIENCE_SECONDS)).state is JobState.CANCELLED
        short = (await store.submit(paint_job(steps=2))).job.id
        job = await store.wait_ended(short, PATIENCE_SECONDS)
        assert job.state is JobState.SUCCEEDED, job.error
        assert job.outcome is not None
        (file,) = job.outcome.files["image"]
        assert (file.name, file.media_type, file.width, file.height) == ("paint_00001_.png", "image/png", 64, 64)
        assert (store.outputs / short / file.name).stat().st_size == file.size
        assert {id: node.status for id, node in job.outcome.nodes.items()} == {
            "checkpoint": "ran",
            "sample": "ran",
            "decode": "ran",
            "save": "ran",
            **dict.fromkeys(("positive", "negative", "empty"), "cached"),
        }
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not supervisor.workers[0].memory.get("weights"):  # told with the next beat
                await asyncio.sleep(0.05)
        (view,) = supervisor.workers
        assert (view.device, view.starts) == ("cpu", 2)
        assert {"python", "torch"} <= set(view.versions)
    finally:
        await supervisor.drain()
        await store.close()

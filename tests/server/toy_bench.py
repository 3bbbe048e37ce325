"""A store, a supervisor and its toy workers, put together as a server would, with limits that a busy machine can keep."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from latentgraph.server.clock import time_us
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import Job, JobDraft, QueueLimits
from latentgraph.server.workers.process import WorkerLimits, WorkerSlot
from latentgraph.server.workers.supervisor import Supervisor, WorkerView

from .toy_worker import PATIENCE_SECONDS

TOY = (sys.executable, str(Path(__file__).with_name("toy_worker.py")))
LIMITS = WorkerLimits(
    warm_up_silence_seconds=PATIENCE_SECONDS,
    warm_up_seconds=PATIENCE_SECONDS,
    heartbeat_timeout_seconds=PATIENCE_SECONDS,
    node_timeout_seconds=PATIENCE_SECONDS,
    cancel_grace_seconds=PATIENCE_SECONDS,
    drain_grace_seconds=PATIENCE_SECONDS,
    exit_seconds=PATIENCE_SECONDS,
    back_off_seconds=0.02,
    back_off_cap_seconds=0.1,
)
QUEUE = QueueLimits(retry_first_seconds=0.02, retry_cap_seconds=0.1)


class Bench:
    """What a test works with. `folder` is for gates and marks."""

    def __init__(self, store: JobStore, supervisor: Supervisor, folder: Path) -> None:
        self.store, self.supervisor, self.folder = store, supervisor, folder
        self.pids: set[int] = set()

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def open(self, gate: str) -> None:
        """Lets go on what waits for a file."""
        (self.folder / gate).touch()

    async def submit(self, *actions: list[Any], **fields: Any) -> str:
        """Submits a job that does these things; returns its id."""
        return (await self.store.submit(JobDraft(json.dumps(actions), **fields))).job.id

    async def ended(self, id: str) -> Job:
        job = await self.store.wait_ended(id, PATIENCE_SECONDS)
        assert job.ended, f"job {id} is still {job.state}"
        return job

    async def until(self, condition: Callable[[Sequence[WorkerView]], bool]) -> tuple[WorkerView, ...]:
        """Waits until the workers are as wanted; returns them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                seen = self.supervisor.changed.count
                views = self.supervisor.workers
                self.pids |= {view.pid for view in views if view.pid is not None}
                if condition(views):
                    return views
                await self.supervisor.changed.after(seen)

    async def event(self, id: str, kind: str, node: str = "") -> None:
        """Waits until something was told of a job."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.store.watch(id) as watcher:
            async for item in watcher:
                if getattr(item, "kind", None) == kind and item.data.get("node", "") == node:  # type: ignore[union-attr]
                    return
        raise AssertionError(f"job {id} ended without the event {kind}")


@asynccontextmanager
async def bench(
    folder: Path,
    *options: str,
    slots: int = 1,
    queue: QueueLimits = QUEUE,
    start_worker: Callable[[WorkerSlot], Sequence[str]] | None = None,
    **limits: Any,
) -> AsyncIterator[Bench]:
    """Puts it all together on a data folder, and ends it well: no worker is left."""
    store = await JobStore.open(folder / "data", clock=time_us, limits=queue)
    supervisor = Supervisor(
        store,
        [WorkerSlot(f"toy-{number}", "cpu") for number in range(slots)],
        start_worker or (lambda slot: [*TOY, *options]),
        limits=dataclasses.replace(LIMITS, **limits),
    )
    made = Bench(store, supervisor, folder)
    await supervisor.start()
    try:
        yield made
    finally:
        made.pids |= {view.pid for view in supervisor.workers if view.pid is not None}
        await supervisor.drain(0)
        await store.close()
    assert not [pid for pid in made.pids if Path(f"/proc/{pid}").exists()], "a worker is left"

"""kill -9 of workers at any moment, while many small jobs run: each ends once, and what it made is published once.

A longer run is made by `LATENTGRAPH_KILLS=500 pytest tests/server/test_worker_kills.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.jobs import publishing
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.values import Job, OutputFile, QueueLimits

from .queue_fakes import kinds
from .toy_bench import Bench, bench

KILLS = int(os.environ.get("LATENTGRAPH_KILLS", "8"))
JOBS = max(30, 3 * KILLS)
MAX_LOSSES = 2


def actions(chance: random.Random, number: int, folder: Path) -> list[list[Any]]:
    """Returns what a job does: steps, waits and files, in some order."""
    steps = ["steps", chance.randrange(1, 30)]
    pace = ["pace", round(chance.uniform(0.0, 0.1), 3)]
    write = ["write", "text", f"{number}.txt", f"made by job {number}\n" * chance.choice((1, 50_000))]
    chosen = [steps, pace, write]
    chance.shuffle(chosen)
    return [["mark", str(folder / "runs")], *chosen]


async def kill_workers(made: Bench, chance: random.Random) -> None:
    """Kills workers at random moments, whatever they do."""
    kills = 0
    while kills < KILLS:
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        views = await made.until(lambda views: any(view.pid is not None for view in views))
        pid = chance.choice([view.pid for view in views if view.pid is not None])
        with contextlib.suppress(ProcessLookupError):  # it is dead from the last time
            os.kill(pid, signal.SIGKILL)
            kills += 1


async def test_every_job_ends_once_and_publishes_once_though_workers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: Counter[str] = Counter()
    publish = publishing.publish

    def counted(
        data: Path, job: str, attempt: int, files: Mapping[str, Sequence[str]]
    ) -> Mapping[str, tuple[OutputFile, ...]]:
        described = publish(data, job, attempt, files)
        published[job] += 1
        return described

    monkeypatch.setattr(publishing, "publish", counted)
    seed = random.randrange(10**6) if KILLS > 8 else 1
    chance = random.Random(seed)
    async with bench(tmp_path, slots=2, queue=QueueLimits(max_losses=MAX_LOSSES)) as made:
        ids = [await made.submit(*actions(chance, number, tmp_path), max_attempts=10) for number in range(JOBS)]
        await kill_workers(made, chance)
        jobs = [await made.ended(id) for id in ids]
        starts = sum(view.starts for view in made.supervisor.workers)
        for number, job in enumerate(jobs):
            await check(made, number, job, f"job {number} of seed {seed}")
        left = {path.name for path in made.store.outputs.iterdir()}
    assert left == {job.id for job in jobs if job.state is JobState.SUCCEEDED} == set(published)
    assert set(published.values()) == {1}
    assert list((tmp_path / "data" / "attempts").iterdir()) == []
    assert starts > KILLS // 2
    runs = Counter(line.split()[0] for line in (tmp_path / "runs").read_text().splitlines())
    assert all(runs[job.id] <= job.attempt for job in jobs)


async def check(made: Bench, number: int, job: Job, name: str) -> None:
    """One job: it ended well with what its last attempt made, or it was lost as often as it may be."""
    told = kinds(await made.store.events(job.id, limit=100_000))
    assert told.count("finished") == 1, name
    assert told[-1] == "finished", name
    assert told.count("started") == job.attempt, name
    assert told.count("retrying") == job.attempt - 1, name
    if job.state is JobState.SUCCEEDED:
        assert job.outcome is not None, name
        (file,) = job.outcome.files["text"]
        written = (made.store.outputs / job.id / file.name).read_text()
        assert len(written) == file.size, name
        assert set(written.splitlines()) == {f"made by job {number}"}, name
    else:
        assert (job.state, job.losses) == (JobState.QUARANTINED, MAX_LOSSES), name
        assert not (made.store.outputs / job.id).exists(), name

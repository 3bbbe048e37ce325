"""What is thrown away, what is not, and that a crash between a row and its files leaves nothing behind for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from latentgraph.server.errors import UnknownJob
from latentgraph.server.jobs.retention import RetentionPolicy, sweep
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import Job

from .queue_fakes import OUTCOME, HandClock, check_clean, claimed, draft, opened, submitted

KEEP_ALL = RetentionPolicy(max_age_seconds=None, max_jobs=None, max_output_bytes=None)


async def ended(store: JobStore) -> Job:
    """A job that has succeeded and has its files."""
    job = await submitted(store, idempotency_key=str(store.clock()), body_sha256="b")
    await store.succeed(job.id, (await claimed(store)).attempt, OUTCOME)
    (store.outputs / job.id).mkdir()
    (store.outputs / job.id / "image_0001.png").write_bytes(b"0123456789")
    return job


async def several(store: JobStore, clock: HandClock, count: int) -> list[Job]:
    jobs: list[Job] = []
    for _ in range(count):
        clock.pass_seconds(1)
        jobs.append(await ended(store))
    return jobs


async def test_a_job_past_its_age_goes_with_its_events_and_files(
    store: JobStore, clock: HandClock, tmp_path: Path
) -> None:
    old = await ended(store)
    clock.pass_seconds(99)
    young = await ended(store)
    policy = replace(KEEP_ALL, max_age_seconds=100)
    assert await sweep(store, policy) == []
    clock.pass_seconds(1)
    assert await sweep(store, policy) == [old.id]
    with pytest.raises(UnknownJob, match="it may be past the time that ended jobs are kept"):
        await store.get(old.id)
    with pytest.raises(UnknownJob):
        await store.events(old.id)
    assert [path.name for path in store.outputs.iterdir()] == [young.id]
    assert (await store.submit(draft(idempotency_key=old.idempotency_key, body_sha256="b"))).created, (
        "its key went, too"
    )
    await store.close()
    check_clean(tmp_path)


async def test_past_a_count_the_jobs_that_ended_first_go(store: JobStore, clock: HandClock) -> None:
    jobs = await several(store, clock, 4)
    assert await sweep(store, replace(KEEP_ALL, max_jobs=3)) == [jobs[0].id]
    assert await sweep(store, replace(KEEP_ALL, max_jobs=0)) == [job.id for job in jobs[1:]]
    assert sum((await store.counts()).values()) == 0


async def test_past_a_size_the_jobs_that_ended_first_go(store: JobStore, clock: HandClock) -> None:
    jobs = await several(store, clock, 4)
    assert await sweep(store, replace(KEEP_ALL, max_output_bytes=25)) == [jobs[0].id, jobs[1].id]


async def test_a_job_that_has_not_ended_is_never_touched(store: JobStore, clock: HandClock) -> None:
    waiting = await submitted(store)
    running = await claimed(store)
    assert waiting.id == running.id
    await submitted(store)
    clock.pass_seconds(10**9)
    assert await sweep(store, RetentionPolicy(max_age_seconds=0, max_jobs=0, max_output_bytes=0)) == []
    assert sum((await store.counts()).values()) == 2


async def test_many_jobs_go_in_small_steps(store: JobStore) -> None:
    for _ in range(120):
        job = await submitted(store)
        await store.cancel(job.id)
    assert len(await sweep(store, replace(KEEP_ALL, max_jobs=1))) == 119


async def test_opening_empties_attempts_and_removes_outputs_of_no_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        job = await ended(store)
        (store.attempts / f"{job.id}.1").mkdir()
        (store.attempts / f"{job.id}.1" / "half.png").write_bytes(b"half")
        (store.attempts / "stray").write_bytes(b"")
        (store.outputs / ("f" * 32)).mkdir()
        (store.outputs / "notes by a person.txt").write_text("not ours to remove")
        (store.attempts / "link").symlink_to(store.outputs)
    async with opened(tmp_path) as store:
        assert list(store.attempts.iterdir()) == []
        assert {path.name for path in store.outputs.iterdir()} == {job.id, "notes by a person.txt"}
        assert (store.outputs / job.id / "image_0001.png").read_bytes() == b"0123456789"

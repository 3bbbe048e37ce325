"""A disk that fails at any statement of submitting and publishing: an error to the caller, and never a lost or torn job.

Each path is walked once for every statement in it, which is made to fail; then the disk is mended and the caller tries again,
as callers do. What SQLite does on a real full disk is tried with a real bound, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.errors import StoreUnavailable
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, JobEvent

from .queue_fakes import (
    OUTCOME,
    PATIENCE_SECONDS,
    Disk,
    HandClock,
    check_clean,
    claimed,
    draft,
    kinds,
    opened,
    submitted,
)

FAULTS = [
    pytest.param("database or disk is full", True, id="disk full, transaction given up"),
    pytest.param("disk I/O error", True, id="I/O error, transaction given up"),
    pytest.param("disk I/O error", False, id="I/O error, transaction kept"),
]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def store(tmp_path: Path, disk: Disk) -> AsyncIterator[JobStore]:
    async with opened(tmp_path, hook=disk) as store:
        yield store
    check_clean(tmp_path)


async def fail_each(
    disk: Disk, gives_up: bool, action: Callable[[int], Awaitable[Any]], retry: Callable[[int], Awaitable[Any]]
) -> int:
    """Does an action with its k-th statement failing, and what a caller does next, for every k; returns how many there are."""
    for k in range(1000):
        disk.fail(k, gives_up=gives_up)
        with contextlib.suppress(StoreUnavailable):
            await action(k)
        if not disk.broken:
            return k
        disk.mend()
        await retry(k)
    raise AssertionError("the action has no end")


@pytest.mark.parametrize(("error", "gives_up"), FAULTS)
async def test_a_submit_is_refused_whole_or_taken_whole(
    store: JobStore, disk: Disk, tmp_path: Path, error: str, gives_up: bool
) -> None:
    disk.error = error
    accepted: list[str] = []

    async def submit(k: int) -> None:
        accepted.append((await submitted(store, idempotency_key=str(k), body_sha256="b", webhook="https://a.org")).id)

    async def again(k: int) -> None:
        assert len((await store.list(owner=None, limit=1000)).items) == len(accepted), "a refused submit left something"
        await submit(k)

    assert await fail_each(disk, gives_up, submit, again) > 10
    disk.mend()
    await store.close()
    async with opened(tmp_path) as store:
        jobs = (await store.list(owner=None, limit=1000)).items
        assert sorted(job.id for job in jobs) == sorted(accepted)
        assert all(job.state is JobState.QUEUED for job in jobs)
        assert all([kinds(await store.events(id)) == ["queued"] for id in accepted])


@pytest.mark.parametrize(("error", "gives_up"), FAULTS)
async def test_an_outcome_is_kept_whole_or_the_job_still_runs(
    store: JobStore, disk: Disk, error: str, gives_up: bool
) -> None:
    disk.error = error

    async def publish(k: int) -> None:
        job = (await store.list(owner=None)).items[0]
        assert await store.succeed(job.id, job.attempt, OUTCOME)

    async def again(k: int) -> None:
        job = (await store.list(owner=None)).items[0]
        assert (job.state, job.outcome) == (JobState.RUNNING, None)
        assert (await store.webhooks.claim(30)) is None
        await publish(k)
        assert not await store.succeed(job.id, job.attempt, OUTCOME)
        assert kinds(await store.events(job.id)) == ["queued", "started", "finished"]
        call = await store.webhooks.claim(30)
        assert call is not None
        await store.webhooks.settle(call.id)
        await next_job()

    async def next_job() -> None:
        await submitted(store, webhook="https://a.org")
        await claimed(store)

    await next_job()
    assert await fail_each(disk, gives_up, publish, again) > 5


@pytest.mark.parametrize(("error", "gives_up"), FAULTS)
async def test_a_claim_that_fails_leaves_the_job_to_be_claimed(
    store: JobStore, disk: Disk, error: str, gives_up: bool
) -> None:
    disk.error = error

    async def claim(k: int) -> None:
        await claimed(store)

    async def again(k: int) -> None:
        (job,) = (await store.list(owner=None, states={JobState.QUEUED})).items
        assert (await claimed(store)).attempt == job.attempt + 1 == 1
        await submitted(store)

    await submitted(store)
    assert await fail_each(disk, gives_up, claim, again) > 5


@pytest.mark.parametrize(("error", "gives_up"), FAULTS)
async def test_events_are_kept_whole_or_not_at_all_and_watchers_see_what_is_kept(
    store: JobStore, disk: Disk, error: str, gives_up: bool
) -> None:
    disk.error = error
    id = (await submitted(store)).id
    await claimed(store)
    async with store.watch(id) as watcher:

        async def tell(k: int) -> None:
            await store.append_events(id, 1, [JobEvent(EventKind.PROGRESS, {"step": k})] * 3)

        assert await fail_each(disk, gives_up, tell, tell) > 3
        disk.mend()
        await store.succeed(id, 1, OUTCOME)
        seen = [event async for event in watcher]
    assert seen == list(await store.events(id))
    assert (len(seen) - 3) % 3 == 0


async def test_submits_at_once_on_a_disk_that_fails_now_and_then_are_there_if_they_were_accepted(
    tmp_path: Path,
) -> None:
    disk, chance = Disk(), random.Random(7)
    async with opened(tmp_path, HandClock(), hook=disk) as store:
        accepted: list[str] = []
        refused = 0
        for turn in range(30):
            disk.fail(chance.randrange(200), times=chance.randrange(3), gives_up=chance.random() < 0.5)
            submits = [store.submit(draft(owner=str(turn))) for _ in range(chance.randrange(1, 20))]
            for answer in await asyncio.gather(*submits, return_exceptions=True):
                if isinstance(answer, StoreUnavailable):
                    refused += 1
                else:
                    assert not isinstance(answer, BaseException)
                    accepted.append(answer.job.id)
    check_clean(tmp_path)
    async with opened(tmp_path) as store:
        kept = [job.id for job in (await store.list(owner=None, limit=1000)).items]
    assert sorted(kept) == sorted(accepted)
    assert refused


async def test_a_recovery_that_fails_lets_go_of_the_folder_and_is_made_at_the_next_start(
    tmp_path: Path, disk: Disk
) -> None:
    async with opened(tmp_path) as store:
        job = await submitted(store)
        await claimed(store)
    disk.fail(3, gives_up=True)
    with pytest.raises(StoreUnavailable):
        await JobStore.open(tmp_path, hook=disk)
    async with opened(tmp_path) as store:
        assert (await store.get(job.id)).state is JobState.WAITING_RETRY
        assert kinds(await store.events(job.id)) == ["queued", "started", "restarted"]


FILLING = """
import asyncio, resource, sys
from pathlib import Path
from latentgraph.server.errors import StoreUnavailable
from latentgraph.server.jobs.values import JobDraft
from latentgraph.server.jobs.store import JobStore

async def main():
    store = await JobStore.open(Path(sys.argv[1]))
    draft = JobDraft("x" * 100_000)
    print((await store.submit(draft)).job.id)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    refused = 0
    while refused < 3:
        try:
            print((await store.submit(draft)).job.id)
        except StoreUnavailable:
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print((await store.submit(draft)).job.id)
    await store.close()

asyncio.run(main())
"""


async def test_a_file_that_may_not_grow_refuses_submits_until_it_may(tmp_path: Path) -> None:
    """A real failed write: the process may write no file beyond a megabyte for a while."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-W", "error", "-c", FILLING, str(tmp_path)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ran.returncode == 0, ran.stderr
    accepted = ran.stdout.split()
    assert 2 < len(accepted) < 15
    async with opened(tmp_path) as store:
        assert [job.id for job in reversed((await store.list(owner=None, limit=100)).items)] == accepted
    check_clean(tmp_path)

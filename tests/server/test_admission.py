"""Who gets into the queue: the first of a key, as many as the queue holds, and as many as an owner may have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from latentgraph.server.errors import IdempotencyConflict, JobIdTaken, QueueFull, QuotaExceeded
from latentgraph.server.jobs.records import StoredToken
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import QueueLimits

from .queue_fakes import OUTCOME, HandClock, claimed, draft, opened, submitted

LIMITS = QueueLimits(max_waiting=4, max_waiting_per_owner=3)
TOKEN = StoredToken("ann", "Ann's laptop", "ab" * 32, frozenset({"submit"}), 0)


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[JobStore]:
    async with opened(tmp_path, clock, limits=LIMITS) as store:
        yield store


async def test_the_same_key_and_body_give_the_first_job_again(store: JobStore) -> None:
    first = await store.submit(draft(idempotency_key="key", body_sha256="body"))
    again = await store.submit(draft(idempotency_key="key", body_sha256="body"))
    assert (first.created, again.created) == (True, False)
    assert again.job == first.job
    assert sum((await store.counts()).values()) == 1


async def test_the_same_key_with_another_body_is_a_conflict_that_names_the_job(store: JobStore) -> None:
    first = await submitted(store, idempotency_key="key", body_sha256="body")
    with pytest.raises(IdempotencyConflict, match=f"'key' belongs to job {first.id}, whose body differs") as conflict:
        await store.submit(draft(idempotency_key="key", body_sha256="other"))
    assert conflict.value.job == first.id


async def test_owners_do_not_share_keys(store: JobStore) -> None:
    jobs = [
        await submitted(store, owner=owner, idempotency_key="key", body_sha256="body") for owner in ("ann", "ben", "")
    ]
    assert len({job.id for job in jobs}) == 3


async def test_equal_submits_at_once_make_one_job(store: JobStore) -> None:
    answers = await asyncio.gather(*[store.submit(draft(idempotency_key="key", body_sha256="body")) for _ in range(20)])
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1


async def test_a_key_is_kept_as_long_as_its_job_whatever_becomes_of_it(store: JobStore) -> None:
    first = await submitted(store, idempotency_key="key", body_sha256="body")
    await claimed(store)
    await store.succeed(first.id, 1, OUTCOME)
    again = await store.submit(draft(idempotency_key="key", body_sha256="body"))
    assert (again.job.id, again.job.outcome, again.created) == (first.id, OUTCOME, False)


async def test_a_chosen_id_is_used_once(store: JobStore) -> None:
    assert (await submitted(store, id="0" * 32)).id == "0" * 32
    with pytest.raises(JobIdTaken, match=f"there is a job {'0' * 32} already"):
        await store.submit(draft(id="0" * 32))


async def test_a_full_queue_refuses_and_says_when_to_come_again(store: JobStore, clock: HandClock) -> None:
    for owner in ("a", "b", "c", "d"):
        await submitted(store, owner=owner, idempotency_key="key", body_sha256="body")
    with pytest.raises(QueueFull, match="the queue is full with 4 waiting jobs; try again in 10 s"):
        await store.submit(draft(owner="e"))
    assert not (await store.submit(draft(owner="a", idempotency_key="key", body_sha256="body"))).created
    job = await claimed(store)
    await submitted(store, owner="e")
    clock.pass_seconds(7)
    await store.succeed(job.id, 1, OUTCOME)
    clock.pass_seconds(3)
    with pytest.raises(QueueFull) as full:
        await store.submit(draft(owner="f"))
    assert full.value.retry_after_seconds == 3


async def test_the_wait_that_is_advised_is_bounded(store: JobStore, clock: HandClock) -> None:
    job = await submitted(store)
    await store.cancel(job.id)
    for owner in ("a", "b", "c", "d"):
        await submitted(store, owner=owner)
    for seconds, advised in ((0, 1), (500, 60), (5000, 10)):
        clock.pass_seconds(seconds)
        with pytest.raises(QueueFull) as full:
            await store.submit(draft())
        assert full.value.retry_after_seconds == advised


async def test_an_owner_has_its_quota_and_others_have_theirs(store: JobStore) -> None:
    for _ in range(3):
        await submitted(store, owner="ben")
    with pytest.raises(QuotaExceeded, match="the quota of 3 waiting jobs is used up; try again in 10 s"):
        await store.submit(draft(owner="ben"))
    await submitted(store, owner="ann")


async def test_a_token_may_have_a_quota_of_its_own(store: JobStore) -> None:
    await store.tokens.put(replace(TOKEN, max_waiting=1))
    await submitted(store, owner="ann")
    with pytest.raises(QuotaExceeded, match="the quota of 1 waiting jobs"):
        await store.submit(draft(owner="ann"))
    await claimed(store)
    await submitted(store, owner="ann")
    await store.tokens.put(replace(TOKEN, max_waiting=0))
    with pytest.raises(QuotaExceeded):
        await store.submit(draft(owner="ann"))


async def test_submits_at_once_never_pass_the_bound(store: JobStore) -> None:
    submits = [store.submit(draft(owner=str(n % 5))) for n in range(50)]
    answers = await asyncio.gather(*submits, return_exceptions=True)
    assert sum(not isinstance(answer, QueueFull) for answer in answers) == 4
    assert sum((await store.counts()).values()) == 4


async def test_jobs_that_run_or_wait_for_a_retry_are_counted_as_they_are(store: JobStore) -> None:
    """What waits for a retry takes a place; what runs does not."""
    for _ in range(3):
        await submitted(store)
    job = await claimed(store)
    await submitted(store)
    await claimed(store)
    await store.worker_lost(job.id, 1, "it was killed")
    with pytest.raises(QuotaExceeded):
        await store.submit(draft())

"""The store: the life of a job from submit to its end, whose turn it is, and what a restart makes of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from latentgraph.server.clock import SECOND_US
from latentgraph.server.errors import SchemaTooNew, StoreClosed, StoreLocked, StoreUnusable, UnknownJob
from latentgraph.server.jobs.states import ENDED, JobState
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.turns import HIGHEST_DUE, OWNERS_THAT_WAIT
from latentgraph.server.jobs.values import EventKind, Job, JobEvent, QueueLimits

from .queue_fakes import DOCUMENT, ERROR, OUTCOME, HandClock, check_clean, claimed, kinds, opened, submitted


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[JobStore]:
    async with opened(tmp_path, clock) as store:
        yield store
    check_clean(tmp_path)


async def running(store: JobStore, **fields: object) -> Job:
    await submitted(store, **fields)
    return await claimed(store)


# Submit, claim, and the ends of a job


async def test_a_job_is_kept_as_it_was_asked_for(store: JobStore, clock: HandClock) -> None:
    asked = {
        "params": {"prompt": "ein Apfel – rot", "seed": 7}, "workflow": "inpaint", "owner": "ann", "priority": 5,
        "deadline_us": clock() + SECOND_US, "idempotency_key": "key", "body_sha256": "ab", "max_attempts": 2,
        "outputs": ("image", "mask"), "webhook": "https://example.org", "extra": {"client_id": "c1"}, "id": "0" * 32,
    }  # fmt: skip
    job = await submitted(store, **asked)
    assert {name: getattr(job, name) for name in asked} == asked
    assert (job.document, job.state, job.number, job.created_us) == (DOCUMENT, JobState.QUEUED, 1, clock())
    assert await store.get(job.id) == job


async def test_a_job_runs_and_succeeds(store: JobStore, clock: HandClock) -> None:
    job = await submitted(store)
    clock.pass_seconds(2)
    begun = await claimed(store, "gpu-0")
    assert (begun.id, begun.state, begun.attempt, begun.worker) == (job.id, JobState.RUNNING, 1, "gpu-0")
    clock.pass_seconds(3)
    assert await store.succeed(job.id, 1, OUTCOME)
    done = await store.get(job.id)
    assert (done.state, done.outcome, done.error, done.ended) == (JobState.SUCCEEDED, OUTCOME, None, True)
    assert (done.started_us, done.ended_us) == (clock() - 3 * SECOND_US, clock())


async def test_nothing_is_claimed_from_an_empty_queue(store: JobStore) -> None:
    assert await store.claim("worker") is None
    await running(store)
    assert await store.claim("worker") is None


async def test_a_failure_that_is_not_worth_a_retry_ends_the_job(store: JobStore) -> None:
    job = await running(store)
    assert await store.fail(job.id, 1, ERROR, retry=False) is JobState.FAILED
    failed = await store.get(job.id)
    assert (failed.error, failed.outcome, failed.spent) == (ERROR, None, 1)
    event = (await store.events(job.id))[-1]
    assert (event.kind, event.data["state"], event.data["error"]["node"]) == ("finished", "failed", "sample")


async def test_a_retry_waits_twice_as_long_each_time_up_to_the_cap(tmp_path: Path, clock: HandClock) -> None:
    limits = QueueLimits(retry_first_seconds=2, retry_cap_seconds=5)
    async with opened(tmp_path, clock, limits=limits) as store:
        job = await submitted(store, max_attempts=5)
        for attempt, wait in enumerate((2, 4, 5, 5), 1):
            assert (await claimed(store)).attempt == attempt
            assert await store.fail(job.id, attempt, ERROR, retry=True) is JobState.WAITING_RETRY
            assert await store.next_due_us() == clock() + wait * SECOND_US
            clock.pass_seconds(wait - 0.001)
            assert await store.claim("worker") is None
            clock.pass_seconds(0.001)
        await claimed(store)
        assert await store.fail(job.id, 5, ERROR, retry=True) is JobState.FAILED
        assert await store.next_due_us() is None
        retrying = [event for event in await store.events(job.id) if event.kind is EventKind.RETRYING]
        assert [event.data["spent"] for event in retrying] == [1, 2, 3, 4]
        assert retrying[0].data["why"]["code"] == "node_failed"


async def test_a_success_after_a_retry_leaves_no_error(store: JobStore, clock: HandClock) -> None:
    job = await running(store)
    await store.fail(job.id, 1, ERROR, retry=True)
    assert (await store.get(job.id)).error == ERROR
    clock.pass_seconds(60)
    await claimed(store)
    assert await store.succeed(job.id, 2, OUTCOME)
    assert (await store.get(job.id)).error is None


async def test_a_lost_worker_costs_one_attempt_and_the_second_one_quarantines_the_job(store: JobStore) -> None:
    job = await running(store)
    assert await store.worker_lost(job.id, 1, "it was killed by signal 9") is JobState.WAITING_RETRY
    again = await claimed(store)
    assert (again.id, again.attempt, again.spent, again.losses) == (job.id, 2, 1, 1)
    assert await store.worker_lost(job.id, 2, "it took 90 GB") is JobState.QUARANTINED
    held = await store.get(job.id)
    assert held.error is not None
    assert (held.error.code, held.losses) == ("worker_lost", 2)
    assert held.error.message == "the worker died while it ran this job: it took 90 GB"
    assert await store.claim("worker") is None


async def test_a_lost_worker_fails_a_job_that_has_no_attempt_left(store: JobStore) -> None:
    job = await running(store, max_attempts=1)
    assert await store.worker_lost(job.id, 1, "it was killed") is JobState.FAILED


async def test_a_job_that_is_put_back_keeps_its_place_and_its_attempts(store: JobStore) -> None:
    job = await running(store, max_attempts=1)
    await submitted(store)
    for attempt in range(1, 5):
        assert await store.put_back(job.id, attempt)
        again = await claimed(store)
        assert (again.id, again.attempt, again.spent) == (job.id, attempt + 1, 0)


# Late and repeated messages


async def test_a_late_message_of_an_attempt_that_is_over_changes_nothing(store: JobStore) -> None:
    job = await running(store)
    await store.put_back(job.id, 1)
    for _ in range(2):  # queued again, and then running as attempt 2
        before = await store.get(job.id)
        assert not await store.succeed(job.id, 1, OUTCOME)
        assert await store.fail(job.id, 1, ERROR, retry=False) is before.state
        assert await store.worker_lost(job.id, 1, "gone") is before.state
        assert not await store.put_back(job.id, 1)
        assert not await store.cancelled(job.id, 1)
        assert await store.append_events(job.id, 1, [JobEvent(EventKind.WARNING)]) == 0
        assert await store.get(job.id) == before
        await store.claim("worker")


async def test_nothing_changes_a_job_that_has_ended(store: JobStore) -> None:
    job = await running(store)
    assert await store.succeed(job.id, 1, OUTCOME)
    before, events = await store.get(job.id), await store.events(job.id)
    assert not await store.succeed(job.id, 1, OUTCOME)
    assert await store.fail(job.id, 1, ERROR, retry=True) is JobState.SUCCEEDED
    assert await store.worker_lost(job.id, 1, "gone") is JobState.SUCCEEDED
    assert not await store.put_back(job.id, 1)
    assert not await store.cancelled(job.id, 1)
    assert await store.cancel(job.id) == before
    assert (await store.get(job.id), await store.events(job.id)) == (before, events)


async def test_only_one_of_two_ends_at_once_counts(store: JobStore) -> None:
    job = await running(store)
    ends = await asyncio.gather(*[store.succeed(job.id, 1, OUTCOME) for _ in range(10)])
    assert sum(ends) == 1
    assert kinds(await store.events(job.id)).count(EventKind.FINISHED) == 1


async def test_an_unknown_job_is_said_to_be_unknown(store: JobStore) -> None:
    for id in ("f" * 32, "", "a\0b", "..%2f", "\ud800"):
        for call in (store.get, store.cancel, store.events):
            with pytest.raises(UnknownJob):
                await call(id)
    with pytest.raises(UnknownJob):
        await store.succeed("f" * 32, 1, OUTCOME)


# Cancelling


async def test_a_waiting_job_is_cancelled_at_once_and_a_cancel_may_be_repeated(
    store: JobStore, clock: HandClock
) -> None:
    retrying = await running(store)
    await store.fail(retrying.id, 1, ERROR, retry=True)
    queued = await submitted(store)
    for id in (retrying.id, queued.id):
        first = await store.cancel(id)
        assert (first.state, first.error) == (JobState.CANCELLED, None)
        assert await store.cancel(id) == first
        assert kinds(await store.events(id)).count(EventKind.FINISHED) == 1
    clock.pass_seconds(60)
    assert await store.claim("worker") is None


async def test_a_running_job_is_asked_once_and_cancelled_when_it_has_stopped(store: JobStore) -> None:
    job = await running(store)
    seen = store.stops.count
    asked = await store.cancel(job.id)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert store.stops.count > seen
    assert await store.cancel(job.id) == asked
    assert await store.cancelled(job.id, 1)
    assert (await store.get(job.id)).state is JobState.CANCELLED
    assert kinds(await store.events(job.id)) == ["queued", "started", "cancel_requested", "finished"]


async def test_a_job_that_succeeds_before_it_stops_has_succeeded(store: JobStore) -> None:
    job = await running(store)
    await store.cancel(job.id)
    assert await store.succeed(job.id, 1, OUTCOME)
    assert not await store.cancelled(job.id, 1)
    assert (await store.get(job.id)).state is JobState.SUCCEEDED


async def test_a_job_that_is_to_stop_is_never_queued_again(store: JobStore) -> None:
    jobs = [await running(store) for _ in range(3)]
    for job in jobs:
        await store.cancel(job.id)
    assert await store.fail(jobs[0].id, 1, ERROR, retry=True) is JobState.CANCELLED
    assert await store.worker_lost(jobs[1].id, 1, "it did not stop in time and was killed") is JobState.CANCELLED
    assert await store.put_back(jobs[2].id, 1)
    assert (await store.counts())[JobState.CANCELLED] == 3


async def test_a_failure_that_comes_first_is_told_as_a_failure(store: JobStore) -> None:
    job = await running(store)
    await store.cancel(job.id)
    assert await store.fail(job.id, 1, ERROR, retry=False) is JobState.FAILED


# Whose turn it is


async def test_higher_priorities_go_first_and_equal_ones_by_age(store: JobStore) -> None:
    jobs = {n: await submitted(store, priority=priority) for n, priority in enumerate((0, 5, 0, -100, 5, 100))}
    order = [(await claimed(store)).id for _ in jobs]
    assert order == [jobs[n].id for n in (5, 1, 4, 0, 2, 3)]


async def test_owners_take_turns_however_much_each_has_asked_for(store: JobStore) -> None:
    for owner, count in (("ann", 6), ("ben", 2), ("cyd", 1)):
        for _ in range(count):
            await submitted(store, owner=owner)
    assert [(await claimed(store)).owner for _ in range(9)] == [
        "ann",
        "ben",
        "cyd",
        "ann",
        "ben",
        "ann",
        "ann",
        "ann",
        "ann",
    ]


async def test_the_owner_served_longest_ago_goes_first_even_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    async with opened(tmp_path, clock) as store:
        for owner in ("ann", "ben", "ann", "ben"):
            await submitted(store, owner=owner)
        assert (await claimed(store)).owner == "ann"
    async with opened(tmp_path, clock) as store:
        assert [(await claimed(store)).owner for _ in range(4)] == ["ben", "ann", "ben", "ann"]


async def test_a_priority_beats_a_turn_and_what_is_not_due_blocks_nobody(store: JobStore, clock: HandClock) -> None:
    late = await running(store, priority=50, owner="ann")
    await store.fail(late.id, 1, ERROR, retry=True)
    await submitted(store, owner="ben")
    assert (await claimed(store)).owner == "ben"
    await submitted(store, owner="cyd")
    clock.pass_seconds(60)
    assert (await claimed(store)).id == late.id


async def test_finding_the_next_job_reads_its_index_alone(store: JobStore, tmp_path: Path) -> None:
    """A claim among thousands of jobs sorts none of them and reads no row."""
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        for statement in (HIGHEST_DUE, OWNERS_THAT_WAIT):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", {"now": 0, "priority": 0}).fetchall()
            assert [step[3].split(" (")[0] for step in plan] in (
                ["SCAN jobs USING COVERING INDEX jobs_waiting"],
                ["SEARCH jobs USING COVERING INDEX jobs_waiting"],
            )
    connection.close()


async def test_several_workers_never_get_the_same_job(store: JobStore) -> None:
    jobs = [(await submitted(store)).id for _ in range(30)]
    claims = await asyncio.gather(*[store.claim(f"worker {n}") for n in range(40)])
    assert [job.id for job in claims if job is not None] == jobs


async def test_a_claim_whose_caller_has_gone_is_put_back(store: JobStore) -> None:
    job = await submitted(store)
    claim = asyncio.ensure_future(store.claim("worker"))
    await asyncio.sleep(0)
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)
    assert claim.cancelled()
    while (await store.get(job.id)).attempt == 0 or (await store.get(job.id)).state is JobState.RUNNING:
        await store.changed.after(store.changed.count, timeout_seconds=0.01)
    again = await claimed(store)
    assert (again.id, again.attempt, again.spent) == (job.id, 2, 0)


# Deadlines


async def test_a_waiting_job_past_its_deadline_fails_and_is_never_claimed(store: JobStore, clock: HandClock) -> None:
    job = await submitted(store, deadline_us=clock() + SECOND_US)
    other = await submitted(store, deadline_us=clock() + 2 * SECOND_US)
    assert await store.expire_deadlines() == []
    clock.pass_seconds(1)
    assert (await claimed(store)).id == other.id
    assert await store.expire_deadlines() == [job.id]
    assert await store.expire_deadlines() == []
    failed = await store.get(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (JobState.FAILED, "deadline")


async def test_a_running_job_past_its_deadline_is_asked_to_stop_and_has_failed_then(
    store: JobStore, clock: HandClock
) -> None:
    job = await running(store, deadline_us=clock() + SECOND_US)
    clock.pass_seconds(1)
    assert await store.expire_deadlines() == [job.id]
    assert await store.expire_deadlines() == []
    assert (await store.get(job.id)).cancel_requested
    assert (await store.cancel(job.id)).state is JobState.RUNNING
    assert await store.cancelled(job.id, 1)
    failed = await store.get(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (JobState.FAILED, "deadline")
    assert kinds(await store.events(job.id)) == ["queued", "started", "cancel_requested", "finished"]


async def test_many_deadlines_pass_at_once(store: JobStore, clock: HandClock) -> None:
    await asyncio.gather(*[submitted(store, deadline_us=clock()) for _ in range(450)])
    assert len(await store.expire_deadlines()) == 450
    assert (await store.counts())[JobState.FAILED] == 450


# Pause, and what wakes those who wait for work


async def test_nothing_is_claimed_while_the_queue_is_paused_even_after_a_restart(
    tmp_path: Path, clock: HandClock
) -> None:
    async with opened(tmp_path, clock) as store:
        assert not store.paused
        await store.pause()
        await store.pause()
        job = await submitted(store)
        assert store.paused
        assert await store.claim("worker") is None
    async with opened(tmp_path, clock) as store:
        assert store.paused
        assert await store.claim("worker") is None
        seen = store.changed.count
        await store.resume()
        assert store.changed.count > seen
        assert (await claimed(store)).id == job.id
    async with opened(tmp_path, clock) as store:
        assert not store.paused


async def test_whatever_may_be_claimed_wakes_those_who_wait(store: JobStore) -> None:
    async def wakes(change: object) -> bool:
        seen = store.changed.count
        await change  # type: ignore[misc]
        return store.changed.count > seen

    assert await wakes(submitted(store))
    job = await claimed(store)
    assert await wakes(store.put_back(job.id, 1))
    await claimed(store)
    assert await wakes(store.worker_lost(job.id, 2, "gone"))
    await claimed(store)
    assert not await wakes(store.succeed(job.id, 3, OUTCOME))


# Lists and counts


async def test_jobs_are_listed_the_newest_first_in_pages(store: JobStore) -> None:
    jobs = [await submitted(store) for _ in range(7)]
    seen: list[str] = []
    before = None
    while True:
        page = await store.list(owner=None, before=before, limit=3)
        seen += [job.id for job in page.items]
        if page.next is None:
            break
        before = page.next
    assert seen == [job.id for job in reversed(jobs)]
    assert (await store.list(owner=None, before=2**70)).items[0] == jobs[-1]


async def test_jobs_are_listed_by_owner_state_and_workflow(store: JobStore) -> None:
    first = await submitted(store, owner="ann", workflow="inpaint")
    second = await submitted(store, owner="ben", workflow="inpaint")
    third = await submitted(store, owner="ann")
    await store.cancel(third.id)

    async def listed(**fields: object) -> list[str]:
        page = await store.list(**{"owner": None} | fields)  # type: ignore[arg-type]
        return [job.id for job in page.items]

    assert await listed(owner="ann") == [third.id, first.id]
    assert await listed(workflow="inpaint") == [second.id, first.id]
    assert await listed(states=ENDED) == [third.id]
    assert await listed(states=[]) == []
    assert await listed(owner="ann", states={JobState.QUEUED}, workflow="inpaint") == [first.id]
    assert await listed(owner="nobody") == []


async def test_long_documents_make_a_page_short_and_none_is_left_out(store: JobStore) -> None:
    long = '"' + "x" * 5_000_000 + '"'
    jobs = [await submitted(store, document=long) for _ in range(3)]
    first = await store.list(owner=None)
    assert [job.id for job in first.items] == [jobs[2].id, jobs[1].id]
    second = await store.list(owner=None, before=first.next)
    assert [job.id for job in second.items] == [jobs[0].id]


async def test_jobs_are_counted_by_state_and_owner(store: JobStore) -> None:
    for owner in ("ann", "ann", "ben"):
        await submitted(store, owner=owner)
    await claimed(store)
    assert (await store.counts())[JobState.QUEUED] == 2
    assert (await store.counts("ann"))[JobState.RUNNING] == 1
    assert (await store.counts("ben"))[JobState.RUNNING] == 0
    assert set(await store.counts("nobody")) == set(JobState)


# Opening, closing, restarting


async def test_what_ran_when_the_server_died_runs_again_at_no_cost(tmp_path: Path, clock: HandClock) -> None:
    async with opened(tmp_path, clock) as store:
        job = await submitted(store, max_attempts=1)
        waiting = await submitted(store)
        assert (await claimed(store)).id == job.id
    clock.pass_seconds(5)
    async with opened(tmp_path, clock) as store:
        again = await store.get(job.id)
        assert (again.state, again.attempt, again.spent, again.losses) == (JobState.WAITING_RETRY, 1, 0, 0)
        assert not await store.succeed(job.id, 1, OUTCOME)
        begun = await claimed(store)
        assert (begun.id, begun.attempt) == (job.id, 2)
        assert await store.succeed(job.id, 2, OUTCOME)
        assert kinds(await store.events(job.id)) == ["queued", "started", "restarted", "started", "finished"]
        assert kinds(await store.events(waiting.id)) == ["queued"]


async def test_what_was_to_stop_when_the_server_died_has_stopped(tmp_path: Path, clock: HandClock) -> None:
    async with opened(tmp_path, clock) as store:
        asked = await running(store)
        late = await running(store, deadline_us=clock() + SECOND_US)
        await store.cancel(asked.id)
        clock.pass_seconds(1)
        await store.expire_deadlines()
    async with opened(tmp_path, clock) as store:
        assert (await store.get(asked.id)).state is JobState.CANCELLED
        assert (await store.get(late.id)).state is JobState.FAILED


async def test_numbers_are_never_given_twice(tmp_path: Path, clock: HandClock) -> None:
    async with opened(tmp_path, clock) as store:
        job = await submitted(store)
        await store.cancel(job.id)
        await store.database.write(lambda transaction: transaction.execute("DELETE FROM jobs") and None)
    async with opened(tmp_path, clock) as store:
        assert (await submitted(store)).number == job.number + 1


async def test_two_stores_on_one_folder_are_one_too_many(store: JobStore, tmp_path: Path) -> None:
    with pytest.raises(StoreLocked, match="is in use by process"):
        await JobStore.open(tmp_path)
    await submitted(store)


async def test_a_store_that_could_not_open_leaves_the_folder_free(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(StoreUnusable):
            await JobStore.open(tmp_path)
    (tmp_path / "jobs.sqlite3").unlink()
    async with opened(tmp_path) as store:
        await submitted(store)
        await store.database.write(lambda transaction: transaction.execute("PRAGMA user_version = 1000") and None)
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match="has schema 1000, and this version knows up to"):
            await JobStore.open(tmp_path)


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        job = await submitted(store)
    await store.close()
    for call in (
        store.get(job.id),
        store.cancel(job.id),
        store.claim("worker"),
        submitted(store),
        store.events(job.id),
    ):
        with pytest.raises(StoreClosed, match="the server is shutting down"):
            await call


async def test_the_data_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    async with opened(folder) as store:
        assert folder.stat().st_mode & 0o077 == 0
        assert store.attempts.is_dir()
        assert store.outputs.is_dir()


async def test_a_log_that_was_lengthened_holds_the_same_jobs_and_is_not_lengthened_again(tmp_path: Path) -> None:
    log = tmp_path / "jobs.sqlite3-wal"
    async with opened(tmp_path) as store:
        before = await submitted(store)
        await store.lengthen_log(4 << 20)
        assert (length := log.stat().st_size) > 4 << 20
        ids = [(await submitted(store)).id for _ in range(50)]
        assert log.stat().st_size == length
        assert [job.id for job in (await store.list(owner=None, limit=100)).items] == [*reversed(ids), before.id]
    check_clean(tmp_path)


async def test_events_that_came_with_the_end_are_kept_before_it_or_not_at_all(store: JobStore) -> None:
    last = [JobEvent(EventKind.NODE_CACHED, {"node": "one"}), JobEvent(EventKind.WARNING, {"message": "slow"})]
    told = [EventKind.NODE_CACHED, EventKind.WARNING, EventKind.FINISHED]
    good, bad, stopped = [await running(store) for _ in range(3)]
    assert not await store.succeed(good.id, 2, OUTCOME, last)
    assert kinds(await store.events(good.id)) == [EventKind.QUEUED, EventKind.STARTED]
    assert await store.succeed(good.id, 1, OUTCOME, last)
    assert await store.fail(bad.id, 1, ERROR, retry=False, last=last) is JobState.FAILED
    await store.cancel(stopped.id)
    assert await store.cancelled(stopped.id, 1, last)
    for job in (good, bad, stopped):
        assert kinds(await store.events(job.id))[-3:] == told
        assert await store.append_events(job.id, 1, last) == 0

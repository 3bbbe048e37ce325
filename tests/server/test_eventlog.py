"""The event log: numbers without gaps, kept with the job, and watchers who join at any point and miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from latentgraph.server.errors import SlowReader, StoreClosed, UnknownJob
from latentgraph.server.jobs.eventlog import Watcher
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, JobEvent, NumberedEvent, Preview, QueueLimits

from .queue_fakes import OUTCOME, PATIENCE_SECONDS, HandClock, claimed, kinds, opened, submitted

BACKLOG = 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    async with opened(tmp_path, HandClock(), limits=QueueLimits(watcher_backlog=BACKLOG)) as store:
        yield store


def steps(count: int, first: int = 1) -> list[JobEvent]:
    return [JobEvent(EventKind.PROGRESS, {"node": "sample", "step": n}) for n in range(first, first + count)]


async def running(store: JobStore) -> str:
    await submitted(store)
    return (await claimed(store)).id


async def numbers_to_end(watcher: Watcher) -> list[int]:
    return [event.number async for event in watcher if isinstance(event, NumberedEvent)]


async def come_up_to_date(watcher: Watcher) -> None:
    """Lets a watcher that was given all there is find out that it was, so that it waits for new events."""
    while watcher._reading:
        with contextlib.suppress(TimeoutError):
            await watcher.next(timeout_seconds=0.005)


async def follow(store: JobStore, id: str, turns: int = 10**6) -> list[int]:
    """Reads the numbers of a job's events to the end, over as many watchers as it takes, each for some events at most."""
    read: list[int] = []
    while True:
        async with store.watch(id, read[-1] if read else 0) as watcher:
            for _ in range(turns):
                try:
                    event = await watcher.next()
                except SlowReader:
                    break
                if event is None:
                    return read
                assert isinstance(event, NumberedEvent)
                read.append(event.number)


async def test_the_events_of_a_job_count_from_one_and_tell_its_life(store: JobStore) -> None:
    id = await running(store)
    assert await store.append_events(id, 1, [JobEvent(EventKind.NODE_STARTED, {"node": "sample"}), *steps(2)]) == 3
    await store.succeed(id, 1, OUTCOME)
    events = await store.events(id)
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    assert kinds(events) == ["queued", "started", "node_started", "progress", "progress", "finished"]
    assert [event.attempt for event in events] == [0, 1, 1, 1, 1, 1]
    assert events[1].data == {"attempt": 1, "worker": "worker"}
    assert events[-1].data == {"state": "succeeded", "error": None}


async def test_a_log_of_ten_thousand_events_is_read_in_pages_without_gaps(store: JobStore) -> None:
    id = await running(store)
    for first in range(0, 10_000, 1000):
        await store.append_events(id, 1, steps(1000, first))
    read: list[NumberedEvent] = []
    while page := await store.events(id, after=read[-1].number if read else 0, limit=777):
        assert len(page) <= 777
        read += page
    assert [event.number for event in read] == list(range(1, 10_003))
    assert [event.data["step"] for event in read[2:]] == list(range(10_000))


async def test_a_watcher_joins_at_any_point_and_gets_all_that_follows(store: JobStore) -> None:
    id = await running(store)
    await store.append_events(id, 1, steps(5))
    for after in (0, 3, 7, 1000, -1):
        async with store.watch(id, after) as watcher:
            event = None if after >= 7 else await watcher.next()
            assert event is None or (isinstance(event, NumberedEvent) and event.number == max(after, 0) + 1)
    async with store.watch(id) as early, store.watch(id, 7) as late, store.watch(id, 10**9) as ahead:
        assert await early.next() == (await store.events(id))[0]
        watching = [asyncio.ensure_future(numbers_to_end(watcher)) for watcher in (early, late, ahead)]
        await store.append_events(id, 1, steps(2))
        await store.succeed(id, 1, OUTCOME)
        assert await asyncio.gather(*watching) == [list(range(2, 11)), [8, 9, 10], [8, 9, 10]]


async def test_a_watcher_of_an_ended_job_gets_what_is_kept_and_the_end(store: JobStore) -> None:
    id = await running(store)
    await store.succeed(id, 1, OUTCOME)
    for after, left in ((0, [1, 2, 3]), (2, [3]), (3, []), (99, [])):
        async with store.watch(id, after) as watcher:
            assert await numbers_to_end(watcher) == left
            assert await watcher.next() is None


async def test_ten_thousand_events_are_followed_while_they_are_made(store: JobStore) -> None:
    id = await running(store)
    following = asyncio.ensure_future(follow(store, id))
    for first in range(0, 10_000, 500):
        await store.append_events(id, 1, steps(500, first))
    await store.succeed(id, 1, OUTCOME)
    assert await following == list(range(1, 10_004))


async def test_a_slow_reader_is_cut_off_and_goes_on_from_where_it_was(store: JobStore) -> None:
    id = await running(store)
    async with store.watch(id) as watcher:
        assert [await watcher.next(), await watcher.next()] == list(await store.events(id))
        await come_up_to_date(watcher)
        for first in range(0, 3 * BACKLOG, 10):
            await store.append_events(id, 1, steps(10, first))
        with pytest.raises(SlowReader, match="events came faster than they were read; go on from event 2") as cut:
            await watcher.next()
        with pytest.raises(SlowReader):
            await watcher.next()
    await store.succeed(id, 1, OUTCOME)
    async with store.watch(id, cut.value.last) as watcher:
        assert await numbers_to_end(watcher) == list(range(3, 3 * BACKLOG + 4))


async def test_more_events_at_once_than_a_watcher_may_hold_are_no_fault_of_its(store: JobStore) -> None:
    id = await running(store)
    async with store.watch(id, 2) as watcher:
        await come_up_to_date(watcher)
        await store.append_events(id, 1, steps(5 * BACKLOG))
        await store.succeed(id, 1, OUTCOME)
        assert await numbers_to_end(watcher) == list(range(3, 5 * BACKLOG + 4))


async def test_a_missed_event_is_read_from_the_log(store: JobStore) -> None:
    id = await running(store)
    async with store.watch(id, 2) as watcher:
        await come_up_to_date(watcher)
        hidden, store._log._watchers = store._log._watchers, {}
        await store.append_events(id, 1, steps(3))
        store._log._watchers = hidden
        await store.succeed(id, 1, OUTCOME)
        assert await numbers_to_end(watcher) == [3, 4, 5, 6]


async def test_what_is_committed_while_a_watcher_reads_the_log_is_not_missed(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher is told of the last event while it holds a page that does not have it yet."""
    id = await running(store)
    read_page = store._log.read_page

    async def read_slowly(id: str, after: int, limit: int) -> tuple[list[NumberedEvent], int, bool]:
        page = await read_page(id, after, limit)
        await store.succeed(id, 1, OUTCOME)
        return page

    monkeypatch.setattr(store._log, "read_page", read_slowly)
    async with store.watch(id) as watcher:
        assert await asyncio.wait_for(numbers_to_end(watcher), PATIENCE_SECONDS) == [1, 2, 3]


async def test_watchers_that_come_and_go_miss_nothing(store: JobStore) -> None:
    id = await running(store)
    following = [asyncio.ensure_future(follow(store, id, turns)) for turns in (1, 2, 3, 7, 50)]
    for first in range(0, 200, 4):
        await store.append_events(id, 1, steps(4, first))
    await store.succeed(id, 1, OUTCOME)
    assert await asyncio.gather(*following) == [list(range(1, 204))] * 5


async def test_a_preview_goes_to_watchers_alone_and_the_latest_only(store: JobStore) -> None:
    id = await running(store)
    store.publish_preview(id, Preview(1, "sample", b"nobody saw this"))
    async with store.watch(id, 2) as watcher:
        await come_up_to_date(watcher)
        for image in (b"one", b"two", b"three"):
            store.publish_preview(id, Preview(1, "sample", image))
        assert await watcher.next() == Preview(1, "sample", b"three")
        store.publish_preview(id, Preview(1, "sample", b"four"))
        await store.append_events(id, 1, steps(1))
        assert isinstance(await watcher.next(), NumberedEvent)
        assert await watcher.next() == Preview(1, "sample", b"four")
    assert len(await store.events(id)) == 3


async def test_events_of_an_attempt_that_is_not_running_are_dropped(store: JobStore) -> None:
    id = await running(store)
    assert await store.append_events(id, 2, steps(1)) == 0
    await store.put_back(id, 1)
    assert await store.append_events(id, 1, steps(1)) == 0
    await claimed(store)
    assert await store.append_events(id, 1, steps(1)) == 0
    assert await store.append_events(id, 2, steps(1)) == 1
    assert kinds(await store.events(id)) == ["queued", "started", "put_back", "started", "progress"]


async def test_a_job_tells_the_last_progress_of_its_attempt(store: JobStore) -> None:
    id = await running(store)
    progress = JobEvent(EventKind.PROGRESS, {"node": "sample", "step": 3, "total": 20, "seconds_left": 4.5})
    await store.append_events(id, 1, [JobEvent(EventKind.NODE_STARTED, {"node": "sample"}), progress])
    told = (await store.get(id)).progress
    assert told is not None
    assert (told.node, told.step, told.total, told.seconds_left) == ("sample", 3, 20, 4.5)
    await store.append_events(id, 1, [JobEvent(EventKind.PROGRESS, {"step": "many"}), JobEvent(EventKind.WARNING)])
    assert (await store.get(id)).progress == told
    await store.put_back(id, 1)
    assert (await claimed(store)).progress is None


async def test_a_number_that_json_does_not_have_is_written_as_null(store: JobStore) -> None:
    id = await running(store)
    await store.append_events(
        id, 1, [JobEvent(EventKind.PROGRESS, {"seconds_left": float("nan"), "all": [float("inf"), 1.5]})]
    )
    assert (await store.events(id))[-1].data == {"seconds_left": None, "all": [None, 1.5]}


async def test_past_its_bound_a_job_keeps_changes_of_state_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=QueueLimits(max_events=10)) as store:
        id = await running(store)
        assert await store.append_events(id, 1, steps(5)) == 5
        assert await store.append_events(id, 1, steps(5)) == 3
        assert await store.append_events(id, 1, steps(5)) == 0
        await store.put_back(id, 1)
        events = await store.events(id)
        assert kinds(events)[-3:] == ["progress", "warning", "put_back"]
        assert events[-2].data["message"] == "a job keeps 10 events; what comes now is not kept"
        assert [event.number for event in events] == list(range(1, 12))


async def test_watching_an_unknown_job_says_so(store: JobStore) -> None:
    for id in ("f" * 32, "no id", "\ud800"):
        with pytest.raises(UnknownJob):
            async with store.watch(id):
                pass


async def test_closing_ends_watchers_and_takes_no_new_ones(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        id = await running(store)
        async with store.watch(id, 2) as watcher:
            await come_up_to_date(watcher)
            waiting = asyncio.ensure_future(watcher.next())
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreClosed):
                await waiting
        with pytest.raises(StoreClosed):
            async with store.watch(id):
                pass


async def test_waiting_for_the_end_returns_when_it_comes_or_the_time_is_up(store: JobStore) -> None:
    id = await running(store)
    assert (await store.wait_ended(id, 0)).state == "running"
    assert (await store.wait_ended(id, 0.01)).state == "running"
    waiting = asyncio.ensure_future(store.wait_ended(id, 60))
    await store.append_events(id, 1, steps(3))
    await store.succeed(id, 1, OUTCOME)
    assert (await waiting).outcome == OUTCOME
    assert (await store.wait_ended(id, 60)).ended
    with pytest.raises(UnknownJob):
        await store.wait_ended("f" * 32, 60)


async def test_a_watcher_that_has_left_is_forgotten(store: JobStore) -> None:
    id = await running(store)
    async with store.watch(id), store.watch(id):
        assert len(store._log._watchers[id]) == 2
    assert store._log._watchers == {}


async def test_a_listener_is_told_of_all_jobs_and_its_failure_harms_no_watcher(store: JobStore) -> None:
    told: list[tuple[str, str]] = []

    def listen(id: str, events: Sequence[NumberedEvent]) -> None:
        told.extend((id, event.kind) for event in events)
        raise ValueError("a listener that fails")

    first = await running(store)
    store.listen(listen)
    async with store.watch(first, 2) as watcher:
        await come_up_to_date(watcher)
        await store.succeed(first, 1, OUTCOME)
        second = (await submitted(store)).id
        assert await numbers_to_end(watcher) == [3]
    assert told == [(first, "finished"), (second, "queued")]

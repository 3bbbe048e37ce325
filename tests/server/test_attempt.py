"""One attempt, with a real store and a worker that is played by the test: every way it can end, and a disk that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.errors import MalformedMessage, WorkerGone
from latentgraph.server.jobs.publishing import outputs_folder
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, Job, Preview
from latentgraph.server.workers.attempt import Attempt, Stillness
from latentgraph.server.workers.messages import (
    CancelJob,
    Done,
    EventTold,
    Failure,
    FromServer,
    FromWorker,
    NodeReport,
    PreviewMade,
    Refused,
    RunJob,
)
from latentgraph.server.workers.process import WorkerLimits, WorkerSlot

from .queue_fakes import Disk, HandClock, claimed, kinds, opened, submitted
from .system_calls import Crash, at_call
from .toy_worker import PATIENCE_SECONDS

LIMITS = WorkerLimits(
    node_timeout_seconds=PATIENCE_SECONDS, cancel_grace_seconds=PATIENCE_SECONDS, exit_seconds=PATIENCE_SECONDS
)
JPEG = b"\xff\xd8\xff cat"


class Actor:
    """Plays a worker process. What it says is put in with `say`; what it is told is in `heard`."""

    def __init__(self, clock: HandClock) -> None:
        self.slot, self.pid = WorkerSlot("toy-0"), 4711
        self.log_tail: tuple[str, ...] = ("Segmentation fault",)
        self.heard: list[FromServer] = []
        self.killed: list[str] = []
        self.forgot = False
        self.news = asyncio.Event()
        self.on_cancel: Callable[[], None] = lambda: None
        self._said: list[FromWorker | WorkerGone] = []

    def say(self, *messages: FromWorker | WorkerGone) -> None:
        self._said.extend(messages)
        self.news.set()

    async def receive(self, timeout_seconds: float) -> list[FromWorker]:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.news.wait()
        except TimeoutError:
            return []
        self.news.clear()
        batch: list[FromWorker] = []
        while self._said and not isinstance(self._said[0], WorkerGone):
            batch.append(self._said.pop(0))  # type: ignore[arg-type]
        if self._said:
            self.news.set()
            if not batch:
                raise self._said[0]  # type: ignore[misc]
        return batch

    async def send(self, message: FromServer) -> None:
        self.heard.append(message)
        if isinstance(message, CancelJob):
            self.on_cancel()

    def wake(self) -> None:
        self.news.set()

    def kill(self, reason: str) -> None:
        self.killed.append(reason)
        self.say(WorkerGone(f"{reason}; it was killed"))

    async def end(self, reason: str = "") -> None:
        self.killed.append(reason)

    def forget_log(self) -> None:
        self.forgot = True


class Stage:
    """A store with one claimed job, and the actor who runs it."""

    def __init__(self, store: JobStore, job: Job, actor: Actor, clock: HandClock) -> None:
        self.store, self.job, self.actor, self.clock = store, job, actor, clock
        self.hurry = asyncio.Event()
        self.attempt = self.make()

    def make(self, **limits: Any) -> Attempt:
        chosen = dataclasses.replace(LIMITS, **limits)
        self.attempt = Attempt(self.store, self.actor, self.job, chosen, hurry=self.hurry)  # type: ignore[arg-type]
        return self.attempt

    @property
    def folder(self) -> Path:
        return self.store.folder / "attempts" / f"{self.job.id}.{self.job.attempt}"

    def done(self, **fields: Any) -> Done:
        return Done(**{"job": self.job.id, "attempt": self.job.attempt, "status": "succeeded"} | fields)

    def failed(self, *, retry: bool = False) -> Done:
        error = Failure(code="node_failed", message="no cat", node="sample", node_type="KSampler", retry=retry)
        return self.done(status="failed", error=error)

    def event(self, kind: Any, node: str = "", **data: Any) -> EventTold:
        return EventTold(job=self.job.id, attempt=self.job.attempt, kind=kind, node=node, node_type="Toy", data=data)

    async def follow(self, *messages: FromWorker | WorkerGone) -> bool:
        self.actor.say(*messages)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.attempt.follow(previews=True)

    async def next(self) -> None:
        """Claims the job for another attempt."""
        self.clock.pass_seconds(1000)
        self.job = await claimed(self.store)
        self.actor = Actor(self.clock)
        self.make()

    async def now(self) -> Job:
        return await self.store.get(self.job.id)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def stage(tmp_path: Path, disk: Disk) -> AsyncIterator[Stage]:
    clock = HandClock()
    async with opened(tmp_path, clock, hook=disk) as store:
        await submitted(store, params={"seed": 7}, outputs=("image",), max_attempts=50)
        yield Stage(store, await claimed(store), Actor(clock), clock)


def writes(stage: Stage, text: str = "meow") -> Callable[[], None]:
    """Has the actor write its output once it is given the job."""

    async def send(message: FromServer) -> None:
        stage.actor.heard.append(message)
        if isinstance(message, RunJob):
            (Path(message.output_dir) / "cat.txt").write_text(text)

    stage.actor.send = send  # type: ignore[method-assign]
    return lambda: None


async def test_a_worker_is_given_the_job_and_an_empty_folder(stage: Stage) -> None:
    assert await stage.follow(stage.done())
    (message,) = stage.actor.heard
    assert message == RunJob(
        job=stage.job.id,
        attempt=1,
        document=stage.job.document,
        params={"seed": 7},
        outputs=("image",),
        output_dir=str(stage.folder),
        previews=True,
    )
    assert not stage.folder.exists()
    assert stage.actor.killed == []
    assert stage.actor.forgot  # the log of other jobs


async def test_what_succeeds_is_published_with_its_events_in_order(stage: Stage) -> None:
    writes(stage)
    told = [
        stage.event(EventKind.NODE_STARTED, "sample"),
        *[stage.event(EventKind.PROGRESS, "sample", step=step, total=3, seconds_left=0.5) for step in (1, 2, 3)],
        stage.event(EventKind.NODE_FINISHED, "sample", seconds=2.0),
    ]
    nodes = {"sample": NodeReport(status="ran", seconds=2.0), "load": NodeReport(status="cached", tier="disk")}
    assert await stage.follow(
        *told, stage.done(files={"image": ["cat.txt"]}, values={"n": 1}, nodes=nodes, seconds=3.0)
    )
    job = await stage.now()
    assert job.state is JobState.SUCCEEDED
    assert job.outcome is not None
    assert [(file.name, file.size, file.media_type) for file in job.outcome.files["image"]] == [
        ("cat.txt", 4, "text/plain")
    ]
    assert (job.outcome.values, job.outcome.seconds) == ({"n": 1}, 3.0)
    assert {id: (node.status, node.tier) for id, node in job.outcome.nodes.items()} == {
        "sample": ("ran", ""),
        "load": ("cached", "disk"),
    }
    assert (outputs_folder(stage.store.folder, job.id) / "cat.txt").read_text() == "meow"
    events = await stage.store.events(job.id)
    assert kinds(events) == ["queued", "started", "node_started", *["progress"] * 3, "node_finished", "finished"]
    assert events[3].data == {"node": "sample", "node_type": "Toy", "step": 1, "total": 3, "seconds_left": 0.5}


async def test_a_failure_is_told_as_the_worker_tells_it(stage: Stage) -> None:
    assert await stage.follow(stage.failed())
    job = await stage.now()
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.message, job.error.node) == ("node_failed", "no cat", "sample")


async def test_what_may_go_well_another_time_is_tried_again(stage: Stage) -> None:
    assert await stage.follow(stage.failed(retry=True))
    assert (await stage.now()).state is JobState.WAITING_RETRY


async def test_a_failure_without_a_reason_is_a_failure(stage: Stage) -> None:
    assert await stage.follow(stage.done(status="cancelled"))
    error = (await stage.now()).error
    assert error is not None
    assert "not why" in error.message


async def test_outputs_that_are_refused_fail_the_job_for_good(stage: Stage) -> None:
    assert await stage.follow(stage.done(files={"image": ["../../jobs.sqlite3"]}))
    job = await stage.now()
    assert (job.state, job.error and job.error.code) == (JobState.FAILED, "output_refused")
    assert not outputs_folder(stage.store.folder, job.id).exists()


async def test_a_lost_worker_costs_an_attempt_and_a_second_one_quarantines_the_job(stage: Stage) -> None:
    gone = WorkerGone("it was ended by signal 11 (SIGSEGV)")
    assert not await stage.follow(stage.event(EventKind.NODE_STARTED, "sample"), gone)
    job = await stage.now()
    assert (job.state, job.losses) == (JobState.WAITING_RETRY, 1)
    await stage.next()
    assert not await stage.follow(stage.event(EventKind.NODE_STARTED, "sample"), gone)
    job = await stage.now()
    assert job.state is JobState.QUARANTINED
    assert job.error is not None
    for known in ("SIGSEGV", "node 'sample'", "worker toy-0, process 4711", "Segmentation fault"):
        assert known in job.error.message


async def test_a_worker_that_died_after_its_job_costs_it_nothing(stage: Stage) -> None:
    assert await stage.follow(stage.done(), WorkerGone("it was ended by signal 9 (SIGKILL)"))
    assert (await stage.now()).state is JobState.SUCCEEDED


async def test_a_cancel_is_passed_on_once_and_the_job_is_cancelled(stage: Stage) -> None:
    stage.actor.on_cancel = lambda: stage.actor.say(stage.done(status="cancelled"))
    await stage.store.cancel(stage.job.id)
    stage.attempt.ask_cancel()
    stage.attempt.ask_cancel()
    assert await stage.follow()
    assert stage.actor.heard[1:] == [CancelJob(job=stage.job.id, attempt=1)]
    assert (await stage.now()).state is JobState.CANCELLED


@pytest.mark.parametrize("ending", ["failed", "gone", "grace"])
async def test_a_job_that_was_to_be_cancelled_is_however_it_ends(stage: Stage, ending: str) -> None:
    if ending == "grace":
        stage.make(cancel_grace_seconds=0.05)
    else:
        end = stage.failed(retry=True) if ending == "failed" else WorkerGone("it ended with exit code 1")
        stage.actor.on_cancel = lambda: stage.actor.say(end)
    await stage.store.cancel(stage.job.id)
    stage.attempt.ask_cancel()
    assert await stage.follow() is (ending == "failed")
    assert (await stage.now()).state is JobState.CANCELLED
    assert any("within 0.05 s of a cancel" in reason for reason in stage.actor.killed) is (ending == "grace")


async def test_a_cancel_that_comes_too_late_changes_nothing(stage: Stage) -> None:
    await stage.store.cancel(stage.job.id)
    stage.attempt.ask_cancel()
    assert await stage.follow(stage.done())
    assert (await stage.now()).state is JobState.SUCCEEDED


async def test_a_drain_puts_the_job_back_at_no_cost(stage: Stage) -> None:
    following = asyncio.create_task(stage.follow(stage.event(EventKind.NODE_STARTED, "sample")))
    while len(await stage.store.events(stage.job.id)) < 3:
        await asyncio.sleep(0.01)
    stage.attempt.put_back()
    assert not await following
    job = await stage.now()
    assert (job.state, job.spent, job.losses) == (JobState.QUEUED, 0, 0)


async def test_a_worker_that_refuses_a_job_is_replaced_and_the_job_is_put_back(stage: Stage) -> None:
    assert not await stage.follow(Refused(job=stage.job.id, attempt=1, reason="busy"))
    assert (await stage.now()).state is JobState.QUEUED


async def test_a_node_that_tells_nothing_for_too_long_costs_the_worker(stage: Stage) -> None:
    stage.make(node_timeout_seconds=0.2)
    assert not await stage.follow(stage.event(EventKind.NODE_STARTED, "sample"))
    assert "node 'sample' told nothing for 0.2 s" in stage.actor.killed
    job = await stage.now()
    assert (job.state, job.losses) == (JobState.WAITING_RETRY, 1)
    assert job.error is not None
    assert "told nothing for 0.2 s" in job.error.message


async def test_an_end_of_another_job_costs_the_worker(stage: Stage) -> None:
    assert not await stage.follow(stage.done(attempt=2))
    assert (await stage.now()).losses == 1
    assert stage.actor.killed


async def test_what_is_told_of_another_attempt_is_not_kept(stage: Stage) -> None:
    late = EventTold(job=stage.job.id, attempt=0, kind=EventKind.WARNING)
    other = EventTold(job="f" * 32, attempt=1, kind=EventKind.WARNING)
    assert await stage.follow(late, other, stage.done())
    assert kinds(await stage.store.events(stage.job.id)) == ["queued", "started", "finished"]


async def test_previews_are_shown_and_not_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, Preview]] = []
    monkeypatch.setattr(stage.store, "publish_preview", lambda id, preview: shown.append((id, preview)))
    made = [
        PreviewMade(job=stage.job.id, attempt=1, node="sample", jpeg=jpeg) for jpeg in (JPEG, b"<svg onload=alert(1)>")
    ]
    assert await stage.follow(*made, stage.done())
    assert shown == [(stage.job.id, Preview(1, "sample", JPEG))]
    assert kinds(await stage.store.events(stage.job.id)) == ["queued", "started", "finished"]


async def test_a_job_that_is_too_large_to_be_told_fails(stage: Stage) -> None:
    async def send(message: FromServer) -> None:
        raise MalformedMessage("a RunJob message has 40,000,000 bytes; at most 33,554,432 are sent")

    stage.actor.send = send  # type: ignore[method-assign]
    assert await stage.follow()
    job = await stage.now()
    assert (job.state, job.error and job.error.code) == (JobState.FAILED, "too_large")


async def test_a_fault_of_the_server_itself_costs_the_attempt_and_not_the_server(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(id: str, preview: Preview) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(stage.store, "publish_preview", broken)
    message = PreviewMade(job=stage.job.id, attempt=1, node="sample", jpeg=JPEG)
    assert not await stage.follow(message, stage.done())
    assert (await stage.now()).losses == 1


async def test_a_store_that_can_not_be_written_is_asked_until_it_can(stage: Stage, disk: Disk) -> None:
    writes(stage)
    disk.fail(0, times=4)
    told = [stage.event(EventKind.WARNING, "sample", message="hot")]
    assert await stage.follow(*told, stage.done(files={"image": ["cat.txt"]}))
    assert disk.broken == 4
    assert (await stage.now()).state is JobState.SUCCEEDED
    assert kinds(await stage.store.events(stage.job.id)) == ["queued", "started", "warning", "finished"]


async def test_a_server_in_a_hurry_leaves_to_the_next_one_what_it_can_not_write(stage: Stage, disk: Disk) -> None:
    disk.fail(0, times=10_000)
    stage.hurry.set()
    assert not await stage.follow(stage.done())
    disk.mend()
    assert (await stage.now()).state is JobState.RUNNING  # which the next start puts right


async def test_a_statement_that_fails_wherever_it_does_costs_no_job_and_publishes_once(
    stage: Stage, disk: Disk
) -> None:
    """The store is asked again, so each attempt goes well although one of its statements failed."""
    for at in range(200):
        writes(stage)
        disk.fail(at)
        warning = stage.event(EventKind.WARNING, "sample", message="hot")
        assert await stage.follow(warning, stage.done(files={"image": ["cat.txt"]}))
        broken = disk.broken
        disk.mend()
        job = await stage.now()
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
        assert kinds(await stage.store.events(job.id)) == ["queued", "started", "warning", "finished"]
        assert (outputs_folder(stage.store.folder, job.id) / "cat.txt").read_text() == "meow"
        await submitted(stage.store)
        await stage.next()
        if not broken:
            break
    assert at > 5


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
async def test_a_disk_that_fails_while_outputs_are_written_costs_an_attempt_and_tears_nothing(
    stage: Stage, error: int
) -> None:
    outputs = outputs_folder(stage.store.folder, stage.job.id)
    states: list[JobState] = []
    for number in range(100):
        writes(stage, text := f"meow {number}")
        with at_call(number, lambda: OSError(error, "the disk failed")) as made:
            assert await stage.follow(stage.done(files={"image": ["cat.txt"]}))
        job = await stage.now()
        states.append(job.state)
        if job.state is JobState.SUCCEEDED:
            break
        assert len(made) > number
        assert job.error is not None
        assert job.error.code in ("no_output_folder", "not_published")
        assert str(stage.store.folder) not in job.error.message
        assert not outputs.exists() or [path.name for path in outputs.iterdir()] == ["cat.txt"]
        await stage.next()
    assert len(states) > 8
    assert states == [JobState.WAITING_RETRY] * (len(states) - 1) + [JobState.SUCCEEDED]
    assert (outputs / "cat.txt").read_text() == text
    left = list(stage.store.attempts.iterdir())
    assert [path.suffix for path in left] in ([], [".stale"])  # if its removal failed; the next start removes it


async def test_what_a_crash_left_between_outputs_and_their_row_is_replaced_by_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()

    async def crash(*_: object) -> bool:
        raise Crash

    async with opened(tmp_path, clock) as store:
        await submitted(store)
        first = Stage(store, await claimed(store), Actor(clock), clock)
        writes(first, "old")
        monkeypatch.setattr(store, "succeed", crash)
        with pytest.raises(Crash):
            await first.follow(first.done(files={"text": ["cat.txt"]}))
    written = outputs_folder(tmp_path, first.job.id) / "cat.txt"
    assert written.read_text() == "old"
    async with opened(tmp_path, clock) as store:
        second = Stage(store, await claimed(store), Actor(clock), clock)
        writes(second, "new and longer")
        assert await second.follow(second.done(files={"text": ["cat.txt"]}))
        job = await second.now()
        assert (job.state, job.attempt, job.spent) == (JobState.SUCCEEDED, 2, 0)
        assert job.outcome is not None
        assert job.outcome.files["text"][0].size == len(written.read_text()) == 14
        assert list(store.attempts.iterdir()) == []


def heard(stillness: Stillness, *events: tuple[Any, str]) -> None:
    for kind, node in events:
        data = {"step": 1, "total": 2} if kind is EventKind.PROGRESS else {}
        stillness.heard(EventTold(job="a", attempt=1, kind=kind, node=node, data=data))


def passed(stillness: Stillness, seconds: Sequence[float]) -> list[str | None]:
    return [stillness.pass_time(one) for one in seconds]


def test_a_still_node_is_found_though_others_tell_much() -> None:
    stillness = Stillness(10.0)
    heard(stillness, (EventKind.NODE_STARTED, "sample"), (EventKind.NODE_STARTED, "load"))
    assert passed(stillness, [6.0]) == [None]
    heard(stillness, (EventKind.PROGRESS, "sample"), (EventKind.WARNING, "other"))
    assert passed(stillness, [3.0, 1.0]) == [None, "load"]
    heard(stillness, (EventKind.NODE_FINISHED, "load"))
    assert stillness.running == ("sample",)


def test_a_job_that_tells_nothing_between_its_nodes_is_found() -> None:
    stillness = Stillness(10.0)
    heard(stillness, (EventKind.NODE_STARTED, "load"), (EventKind.NODE_FAILED, "load"))
    assert passed(stillness, [9.0, 1.0]) == [None, ""]

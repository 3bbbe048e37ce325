"""The queue against a model of it: whatever workers, clients and restarts do in whatever order, both agree.

The model is a few dictionaries and the rules of `states` in their simplest form. Workers hold on to attempts that are over,
so late messages are part of the game.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from latentgraph.server.clock import SECOND_US
from latentgraph.server.errors import IdempotencyConflict, QueueFull, QuotaExceeded
from latentgraph.server.jobs.states import ENDED, WAITING, JobState
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import EventKind, Job, JobEvent, QueueLimits

from .queue_fakes import ERROR, OUTCOME, HandClock, check_clean, draft

OWNERS = ["ann", "ben"]
WORKERS = ["gpu-0", "gpu-1", "gpu-2"]
LIMITS = QueueLimits(max_waiting=6, max_waiting_per_owner=4, retry_first_seconds=2, retry_cap_seconds=3)
Attempt = tuple[str, int]


@dataclass
class Modelled:
    """A job as the model has it."""

    number: int
    owner: str
    priority: int
    max_attempts: int
    deadline_us: int | None
    state: JobState = JobState.QUEUED
    attempt: int = 0
    spent: int = 0
    losses: int = 0
    not_before_us: int = 0
    stop: str = ""
    events: list[str] = field(default_factory=lambda: ["queued"])


class Queue(RuleBasedStateMachine):
    """What clients and workers do to a store, one thing at a time, and what must come of it."""

    attempts: Bundle[Attempt] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.clock = HandClock()
        self.store = self.run(self.open())
        self.jobs: dict[str, Modelled] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.turns: list[str] = []
        self.paused = False

    def run(self, coroutine):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(coroutine)

    async def open(self) -> JobStore:
        return await JobStore.open(Path(self.folder.name), clock=self.clock, limits=LIMITS)

    def teardown(self) -> None:
        self.run(self.store.close())
        check_clean(Path(self.folder.name))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    # What clients do

    @rule(
        owner=st.sampled_from(OWNERS),
        priority=st.sampled_from([-1, 0, 0, 1]),
        max_attempts=st.integers(1, 3),
        lifetime=st.none() | st.integers(0, 4),
    )
    def submit(self, owner: str, priority: int, max_attempts: int, lifetime: int | None) -> None:
        deadline = None if lifetime is None else self.clock() + lifetime * SECOND_US
        job = self.submit_or_refuse(owner, priority=priority, max_attempts=max_attempts, deadline_us=deadline)
        if job is not None:
            self.jobs[job.id] = Modelled(len(self.jobs) + 1, owner, priority, max_attempts, deadline)
            self.jobs[job.id].not_before_us = self.clock()

    def submit_or_refuse(self, owner: str, **fields: object) -> Job | None:
        waiting = [job.owner for job in self.jobs.values() if job.state in WAITING]
        try:
            submitted = self.run(self.store.submit(draft(owner=owner, **fields)))
        except QueueFull:
            assert len(waiting) >= LIMITS.max_waiting  # more, where running jobs came to wait again
            return None
        except QuotaExceeded:
            assert waiting.count(owner) >= (LIMITS.max_waiting_per_owner or 0)
            return None
        assert len(waiting) < LIMITS.max_waiting
        assert waiting.count(owner) < (LIMITS.max_waiting_per_owner or 0)
        assert submitted.created
        job: Job = submitted.job
        return job

    @rule(owner=st.sampled_from(OWNERS), key=st.sampled_from("xy"), body=st.sampled_from("12"))
    def submit_with_key(self, owner: str, key: str, body: str) -> None:
        known = self.keys.get((owner, key))
        if known is None:
            job = self.submit_or_refuse(owner, idempotency_key=key, body_sha256=body)
            if job is not None:
                self.keys[owner, key] = (job.id, body)
                self.jobs[job.id] = Modelled(len(self.jobs) + 1, owner, 0, 3, None, not_before_us=self.clock())
            return
        asked = draft(owner=owner, idempotency_key=key, body_sha256=body)
        if body == known[1]:
            again = self.run(self.store.submit(asked))
            assert (again.created, again.job.id) == (False, known[0])
        else:
            with pytest.raises(IdempotencyConflict, match=known[0]):
                self.run(self.store.submit(asked))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[id]
        self.run(self.store.cancel(id))
        if job.state in WAITING:
            self.end(job, JobState.CANCELLED)
        elif job.state is JobState.RUNNING and not job.stop:
            job.stop = "asked"
            job.events.append("cancel_requested")

    # What workers do

    @rule(target=attempts, worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> Attempt:
        claimed = self.run(self.store.claim(worker))
        expected = self.whose_turn_it_is()
        assert (claimed and claimed.id) == expected
        if expected is None:
            return multiple()  # type: ignore[return-value]
        job = self.jobs[expected]
        job.state, job.attempt = JobState.RUNNING, job.attempt + 1
        job.events.append("started")
        self.turns = [owner for owner in self.turns if owner != job.owner] + [job.owner]
        return expected, job.attempt

    def whose_turn_it_is(self) -> str | None:
        now = self.clock()
        due = [
            (-job.priority, self.turns.index(job.owner) if job.owner in self.turns else -1, job.number, id)
            for id, job in self.jobs.items()
            if job.state in WAITING and job.not_before_us <= now and (job.deadline_us is None or job.deadline_us > now)
        ]
        return None if self.paused or not due else min(due)[-1]

    def runs(self, attempt: Attempt) -> bool:
        job = self.jobs[attempt[0]]
        return job.state is JobState.RUNNING and job.attempt == attempt[1]

    @rule(attempt=attempts)
    def tell_events(self, attempt: Attempt) -> None:
        kept = self.run(self.store.append_events(*attempt, [JobEvent(EventKind.PROGRESS), JobEvent(EventKind.SAVED)]))
        assert kept == (2 if self.runs(attempt) else 0)
        self.jobs[attempt[0]].events += ["progress", "saved"][:kept]

    @rule(attempt=attempts)
    def succeed(self, attempt: Attempt) -> None:
        runs = self.runs(attempt)
        assert self.run(self.store.succeed(*attempt, OUTCOME)) == runs
        if runs:
            self.end(self.jobs[attempt[0]], JobState.SUCCEEDED)

    @rule(attempt=attempts, retry=st.booleans())
    def fail(self, attempt: Attempt, retry: bool) -> None:
        job, runs = self.jobs[attempt[0]], self.runs(attempt)
        state = self.run(self.store.fail(*attempt, ERROR, retry=retry))
        if runs and job.stop and retry:
            self.stop(job)
        elif runs:
            job.spent += 1
            if retry and job.spent < job.max_attempts:
                self.wait_again(job, (2, 3)[job.spent > 1])
            else:
                self.end(job, JobState.FAILED)
        assert state is job.state

    @rule(attempt=attempts)
    def lose_worker(self, attempt: Attempt) -> None:
        job, runs = self.jobs[attempt[0]], self.runs(attempt)
        state = self.run(self.store.worker_lost(*attempt, "it was killed"))
        if runs:
            job.spent, job.losses = job.spent + 1, job.losses + 1
            if job.stop:
                self.stop(job)
            elif job.losses == 2:
                self.end(job, JobState.QUARANTINED)
            elif job.spent == job.max_attempts:
                self.end(job, JobState.FAILED)
            else:
                self.wait_again(job, 0)
        assert state is job.state

    @rule(attempt=attempts)
    def put_back(self, attempt: Attempt) -> None:
        job, runs = self.jobs[attempt[0]], self.runs(attempt)
        assert self.run(self.store.put_back(*attempt)) == runs
        if runs and job.stop:
            self.stop(job)
        elif runs:
            job.state, job.not_before_us = JobState.QUEUED, self.clock()
            job.events.append("put_back")

    @rule(attempt=consumes(attempts))
    def stop_running(self, attempt: Attempt) -> None:
        job, runs = self.jobs[attempt[0]], self.runs(attempt)
        assert self.run(self.store.cancelled(*attempt)) == runs
        if runs:
            self.stop(job)

    # What time and the server do

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.clock.pass_seconds(seconds)

    @rule()
    def expire(self) -> None:
        late = {
            id: job
            for id, job in self.jobs.items()
            if job.state not in ENDED
            and not job.stop
            and job.deadline_us is not None
            and job.deadline_us <= self.clock()
        }
        assert sorted(self.run(self.store.expire_deadlines())) == sorted(late)
        for job in late.values():
            if job.state is JobState.RUNNING:
                job.stop = "deadline"
                job.events.append("cancel_requested")
            else:
                self.end(job, JobState.FAILED)

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        self.run(self.store.pause() if paused else self.store.resume())
        self.paused = paused

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())
        for job in self.jobs.values():
            if job.state is JobState.RUNNING and job.stop:
                self.stop(job)
            elif job.state is JobState.RUNNING:
                job.state, job.not_before_us = JobState.WAITING_RETRY, self.clock()
                job.events.append("restarted")

    # The rules in their simplest form

    def end(self, job: Modelled, state: JobState) -> None:
        job.state = state
        job.events.append("finished")

    def stop(self, job: Modelled) -> None:
        self.end(job, JobState.FAILED if job.stop == "deadline" else JobState.CANCELLED)

    def wait_again(self, job: Modelled, seconds: int) -> None:
        job.state, job.not_before_us = JobState.WAITING_RETRY, self.clock() + seconds * SECOND_US
        job.events.append("retrying")

    @invariant()
    def store_and_model_agree(self) -> None:
        page = self.run(self.store.list(owner=None, limit=1000))
        found = {
            job.id: (job.state, job.attempt, job.spent, job.losses, job.cancel_requested, job.number)
            for job in page.items
        }
        assert found == {
            id: (job.state, job.attempt, job.spent, job.losses, job.stop != "", job.number)
            for id, job in self.jobs.items()
        }
        assert all((job.ended_us is not None) == (job.outcome is not None or job.ended) for job in page.items)
        states = [job.state for job in self.jobs.values()]
        assert dict(self.run(self.store.counts())) == {state: states.count(state) for state in JobState}
        assert self.store.paused == self.paused

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def read_events(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.jobs)))
        events = self.run(self.store.events(id))
        assert [event.kind for event in events] == self.jobs[id].events
        assert [event.number for event in events] == list(range(1, len(events) + 1))


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

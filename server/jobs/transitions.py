"""Transitions: every change of a job's state, with the row, the event and the webhook that go with it, in one transaction.

Each asks `states` whether it may be, and is conditional on the state and the attempt that it found, so that a late message of
an attempt that is over changes nothing. It knows no worker process and no time but the clock's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ..clock import SECOND_US, Clock
from ..errors import UnknownJob
from .admission import admit, find_first
from .changes import Changes
from .database import Transaction
from .deliveries import owe_call
from .eventlog import EventLog
from .rows import error_to_json, find_job, insert_job, outcome_to_json, progress_to_json, to_json
from .states import WAITING, JobState, check_transition
from .turns import next_in_turn, take_turn
from .values import EventKind, Job, JobDraft, JobError, JobEvent, Outcome, Progress, QueueLimits, Submitted, new_job_id

_ASKED, _DEADLINE = "asked", "deadline"  # why a running job is to stop

_DEADLINE_ERROR = JobError("deadline", "its deadline passed before it was done; ask with a later one, or without")


class _Standing(NamedTuple):
    """Where a job stands, as far as a change of its state must know."""

    number: int
    id: str
    owner: str
    state: JobState
    attempt: int
    spent: int
    losses: int
    max_attempts: int
    stop: str
    webhook: str | None

    def runs(self, attempt: int) -> bool:
        """Returns whether that attempt is the one that runs."""
        return self.state is JobState.RUNNING and self.attempt == attempt


_STANDING = f"SELECT {', '.join(_Standing._fields)} FROM jobs"


class Transitions:
    """The changes of state. Its methods are operations of the writer."""

    def __init__(self, log: EventLog, clock: Clock, limits: QueueLimits, changed: Changes, stops: Changes) -> None:
        self._log = log
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._stops = stops

    def submit(self, transaction: Transaction, draft: JobDraft) -> Submitted:
        """Takes a job into the queue, or finds the one that has its idempotency key."""
        if (first := find_first(transaction, draft)) is not None:
            return Submitted(first, created=False)
        now = self._clock()
        admit(transaction, draft, self._limits, now)
        id = draft.id or new_job_id(now)
        number = insert_job(transaction, draft, id, now)
        self._log.append(transaction, (number, id), 0, now, JobEvent(EventKind.QUEUED))
        transaction.after_commit(self._changed.tell)
        return Submitted(_found(transaction, id), created=True)

    def claim(self, transaction: Transaction, worker: str) -> Job | None:
        """Starts the next attempt of the job whose turn it is."""
        now = self._clock()
        number = next_in_turn(transaction, now)
        if number is None:
            return None
        (job,) = _select(transaction, "number = ?", (number,))
        take_turn(transaction, job.owner)
        attempt = job.attempt + 1
        changes = {"attempt": attempt, "started_us": now, "worker": worker, "progress": None}
        event = JobEvent(EventKind.STARTED, {"attempt": attempt, "worker": worker})
        self._move(transaction, job, JobState.RUNNING, now, event, **changes)
        return _found(transaction, job.id)

    def succeed(
        self, transaction: Transaction, id: str, attempt: int, outcome: Outcome, last: Sequence[JobEvent]
    ) -> bool:
        """Ends a job well, after its last events, unless that attempt is over."""
        job = _standing(transaction, id)
        if not job.runs(attempt):
            return False
        self._keep(transaction, job, last)
        given = {"outcome": outcome_to_json(outcome), "output_bytes": outcome.nbytes}
        self._end(transaction, job, JobState.SUCCEEDED, self._clock(), None, **given)
        return True

    def fail(
        self,
        transaction: Transaction,
        id: str,
        attempt: int,
        error: JobError,
        retry: bool,
        last: Sequence[JobEvent],
    ) -> JobState:
        """Ends an attempt badly, after its last events, unless it is over."""
        job = _standing(transaction, id)
        if not job.runs(attempt):
            return job.state
        self._keep(transaction, job, last)
        if job.stop and retry:
            return self._stop(transaction, job, self._clock())
        job = job._replace(spent=job.spent + 1)
        if retry and job.spent < job.max_attempts:
            return self._retry(transaction, job, error, self._back_off_us(job.spent))
        return self._end(transaction, job, JobState.FAILED, self._clock(), error, spent=job.spent)

    def worker_lost(self, transaction: Transaction, id: str, attempt: int, reason: str) -> JobState:
        """Counts the loss of an attempt's worker, unless the attempt is over."""
        job = _standing(transaction, id)
        if not job.runs(attempt):
            return job.state
        now = self._clock()
        job = job._replace(spent=job.spent + 1, losses=job.losses + 1)
        counted = {"spent": job.spent, "losses": job.losses}
        error = JobError("worker_lost", f"the worker died while it ran this job: {reason}")
        if job.stop:
            return self._stop(transaction, job, now, **counted)
        if job.losses >= self._limits.max_losses:
            return self._end(transaction, job, JobState.QUARANTINED, now, error, **counted)
        if job.spent >= job.max_attempts:
            return self._end(transaction, job, JobState.FAILED, now, error, **counted)
        return self._retry(transaction, job, error, 0)

    def put_back(self, transaction: Transaction, id: str, attempt: int) -> bool:
        """Queues a running job again at its old place; one that was to stop is stopped."""
        job = _standing(transaction, id)
        if not job.runs(attempt):
            return False
        now = self._clock()
        if job.stop:
            self._stop(transaction, job, now)
        else:
            self._move(transaction, job, JobState.QUEUED, now, JobEvent(EventKind.PUT_BACK), not_before_us=now)
        return True

    def cancel(self, transaction: Transaction, id: str) -> Job:
        """Cancels a waiting job, and asks a running one to stop."""
        job = _standing(transaction, id)
        now = self._clock()
        if job.state in WAITING:
            self._end(transaction, job, JobState.CANCELLED, now, None)
        elif job.state is JobState.RUNNING and not job.stop:
            self._ask_to_stop(transaction, job, _ASKED, now)
        return _found(transaction, id)

    def cancelled(self, transaction: Transaction, id: str, attempt: int, last: Sequence[JobEvent]) -> bool:
        """Ends a job whose attempt has stopped, after its last events, unless the attempt is over."""
        job = _standing(transaction, id)
        if not job.runs(attempt):
            return False
        self._keep(transaction, job, last)
        self._stop(transaction, job, self._clock())
        return True

    def expire(self, transaction: Transaction, limit: int) -> Sequence[str]:
        """Fails waiting jobs whose deadline has passed and asks running ones to stop, `limit` at most."""
        now = self._clock()
        condition = "deadline_us <= ? AND ended_us IS NULL AND stop = '' ORDER BY deadline_us, number LIMIT ?"
        jobs = _select(transaction, condition, (now, limit))
        for job in jobs:
            if job.state is JobState.RUNNING:
                self._ask_to_stop(transaction, job, _DEADLINE, now)
            else:
                self._end(transaction, job, JobState.FAILED, now, _DEADLINE_ERROR)
        return [job.id for job in jobs]

    def recover(self, transaction: Transaction) -> Sequence[str]:
        """Lets what was running when the server died run again, at no cost; what was to stop has stopped."""
        now = self._clock()
        jobs = _select(transaction, "state = 'running' ORDER BY number", ())
        for job in jobs:
            if job.stop:
                self._stop(transaction, job, now)
            else:
                event = JobEvent(EventKind.RESTARTED)
                self._move(transaction, job, JobState.WAITING_RETRY, now, event, not_before_us=now)
        return [job.id for job in jobs]

    def append(self, transaction: Transaction, id: str, attempt: int, events: Sequence[JobEvent]) -> int:
        """Keeps the events of a running attempt, and the progress that they tell."""
        job = _standing(transaction, id)
        return self._keep(transaction, job, events) if job.runs(attempt) else 0

    def _keep(self, transaction: Transaction, job: _Standing, events: Sequence[JobEvent]) -> int:
        """Keeps events of the attempt that runs; returns how many."""
        kept = self._log.within_bound(transaction, job.number, events) if events else ()
        if kept:
            self._log.append(transaction, (job.number, job.id), job.attempt, self._clock(), *kept)
        progress = next(filter(None, map(_progress, reversed(kept))), None)
        if progress is not None:
            text = progress_to_json(progress)
            transaction.execute("UPDATE jobs SET progress = ? WHERE number = ?", (text, job.number))
        return len(kept)

    def _retry(self, transaction: Transaction, job: _Standing, error: JobError, delay_us: int) -> JobState:
        now = self._clock()
        told = {
            "why": asdict(error),
            "not_before_us": now + delay_us,
            "spent": job.spent,
            "max_attempts": job.max_attempts,
        }
        changes = {
            "spent": job.spent,
            "losses": job.losses,
            "error": error_to_json(error),
            "not_before_us": now + delay_us,
        }
        event = JobEvent(EventKind.RETRYING, told)
        return self._move(transaction, job, JobState.WAITING_RETRY, now, event, **changes)

    def _stop(self, transaction: Transaction, job: _Standing, now: int, **changes: Any) -> JobState:
        """Ends a running job that was to stop: cancelled, or failed if its deadline was the reason."""
        if job.stop == _DEADLINE:
            return self._end(transaction, job, JobState.FAILED, now, _DEADLINE_ERROR, **changes)
        return self._end(transaction, job, JobState.CANCELLED, now, None, **changes)

    def _ask_to_stop(self, transaction: Transaction, job: _Standing, why: str, now: int) -> None:
        transaction.execute("UPDATE jobs SET stop = ? WHERE number = ?", (why, job.number))
        event = JobEvent(EventKind.CANCEL_REQUESTED, {"why": why})
        self._log.append(transaction, (job.number, job.id), job.attempt, now, event)
        transaction.after_commit(self._stops.tell)

    def _end(
        self,
        transaction: Transaction,
        job: _Standing,
        state: JobState,
        now: int,
        error: JobError | None,
        **changes: Any,
    ) -> JobState:
        told = {"state": state, "error": None if error is None else asdict(error)}
        changes["error"] = None if error is None else error_to_json(error)
        self._move(transaction, job, state, now, JobEvent(EventKind.FINISHED, told), ended_us=now, **changes)
        if job.webhook is not None:
            body = to_json({"job": job.id, "state": state, "ended_us": now})
            owe_call(transaction, job.id, job.owner, job.webhook, body, now)
        return state

    def _move(
        self, transaction: Transaction, job: _Standing, state: JobState, now: int, event: JobEvent, **changes: Any
    ) -> JobState:
        """Writes a change of state and its event. Every change comes through here."""
        check_transition(job.state, state)
        settings = "".join(f", {column} = ?" for column in changes)
        moved = transaction.execute(
            f"UPDATE jobs SET state = ?{settings} WHERE number = ? AND state = ? AND attempt = ?",
            (state, *changes.values(), job.number, job.state, job.attempt),
        ).rowcount
        if moved != 1:
            raise RuntimeError(f"job {job.id} is not where it was found, in a transaction of its own")
        self._log.append(transaction, (job.number, job.id), changes.get("attempt", job.attempt), now, event)
        if state in WAITING:
            transaction.after_commit(self._changed.tell)
        return state

    def _back_off_us(self, spent: int) -> int:
        doubled = self._limits.retry_first_seconds * 2.0 ** (spent - 1)
        return round(min(doubled, self._limits.retry_cap_seconds) * SECOND_US)


def _select(transaction: Transaction, condition: str, parameters: Sequence[Any]) -> list[_Standing]:
    rows = transaction.execute(f"{_STANDING} WHERE {condition}", parameters).fetchall()
    return [standing._replace(state=JobState(standing.state)) for standing in (_Standing(*row) for row in rows)]


def _standing(transaction: Transaction, id: str) -> _Standing:
    found = _select(transaction, "id = ?", (id,))
    if not found:
        raise UnknownJob(id)
    return found[0]


def _found(transaction: Transaction, id: str) -> Job:
    job = find_job(transaction, id)
    if job is None:
        raise UnknownJob(id)
    return job


def _progress(event: JobEvent) -> Progress | None:
    """Returns the progress that an event tells, None if it tells none in a way that can be read."""
    if event.kind not in (EventKind.PROGRESS, EventKind.NODE_STARTED):
        return None
    left = event.data.get("seconds_left")
    try:
        return Progress(
            node=str(event.data.get("node", "")),
            step=int(event.data.get("step", 0)),
            total=int(event.data.get("total", 0)),
            seconds_left=None if left is None else float(left),
        )
    except (TypeError, ValueError, OverflowError):
        return None

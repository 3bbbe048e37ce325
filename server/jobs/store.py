"""JobStore: the queue. A write is durable when it returns, and a change of a job is conditional on its state and attempt.

It knows no worker and no HTTP. What it promises: a job that was accepted is there after any crash, once; a message of an
attempt that is no longer the running one changes nothing; nothing leaves an end state. What each change does is written in
`transitions`; here is the way to it from the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

from ..clock import LAST_US, Clock, time_us
from ..errors import StoreClosed, UnknownJob
from .admission import find_first
from .changes import Changes
from .database import Database, Hook, Transaction
from .deliveries import Webhooks
from .eventlog import EventLog, Listener, Watcher
from .folders import take_folder, tidy
from .lock import FolderLock
from .records import Tokens, Workflows
from .rows import find_job, is_storable, select_jobs
from .states import JobState
from .transitions import Transitions
from .uploads import Uploads
from .values import Job, JobDraft, JobError, JobEvent, NumberedEvent, Outcome, Page, Preview, QueueLimits, Submitted

_log = logging.getLogger(__name__)

_PADDING = 1 << 20  # bytes that a commit adds to the log to lengthen it: few enough to hold up no other for long
_STEP = 200  # jobs that one operation of the writer expires
_PAGE_CHARACTERS = 8_000_000  # of documents in a page of jobs, after which it ends early

_DEFAULT_LIMITS = QueueLimits()


class JobStore:
    """The jobs of one data folder. It belongs to the event loop that opened it."""

    def __init__(self, folder: Path, lock: FolderLock, database: Database, clock: Clock, limits: QueueLimits) -> None:
        self.folder = folder
        self.attempts = folder / "attempts"
        self.outputs = folder / "outputs"
        self.clock = clock
        self.limits = limits
        self.database = database
        self.changed = Changes()  # told when there may be something to claim, or no longer
        self.stops = Changes()  # told when a running job is to stop
        self.workflows = Workflows(database, clock)
        self.tokens = Tokens(database, clock)
        self.uploads = Uploads(database, clock)
        self.webhooks = Webhooks(database, clock)
        self._lock = lock
        self._log = EventLog(database, max_events=limits.max_events, backlog=limits.watcher_backlog)
        self._transitions = Transitions(self._log, clock, limits, self.changed, self.stops)
        self._paused = False

    @classmethod
    async def open(
        cls, folder: Path, *, clock: Clock = time_us, limits: QueueLimits = _DEFAULT_LIMITS, hook: Hook | None = None
    ) -> JobStore:
        """Locks the folder, brings the schema up to date and recovers: what was running when the server died runs again.

        Raises StoreLocked, SchemaTooNew, StoreUnusable. hook: see `database.Hook`.
        """
        lock = await asyncio.to_thread(take_folder, folder)
        try:
            database = await Database.open(folder / "jobs.sqlite3", hook=hook)
            try:
                store = cls(folder, lock, database, clock, limits)
                await tidy(database, attempts=store.attempts, outputs=store.outputs)
                store._paused = await database.read(_is_paused)
                if restarted := await database.write(store._transitions.recover):
                    _log.warning("the server had ended while it ran %s; they run again", ", ".join(restarted))
            except BaseException:
                await database.close()
                raise
        except BaseException:
            lock.release()
            raise
        return store

    async def close(self) -> None:
        """Finishes the writes that were asked for and lets go of the folder. It may be repeated."""
        self._log.close()
        await self.database.close()
        self._lock.release()

    async def lengthen_log(self, nbytes: int) -> None:
        """Makes the database's log long once. It may be done at any time beside other writes.

        A commit that makes the log longer waits for the file system's journal too, and takes several times as long as one that
        writes over what is there.
        """
        put = "INSERT OR REPLACE INTO settings (name, value) VALUES ('padding', ?)"
        for _ in range(-(-nbytes // _PADDING)):
            await self.database.write(lambda transaction: transaction.execute(put, ("-" * _PADDING,)) and None)
        remove = "DELETE FROM settings WHERE name = 'padding'"
        await self.database.write(lambda transaction: transaction.execute(remove) and None)
        await self.database.checkpoint()

    async def submit(self, draft: JobDraft) -> Submitted:
        """Takes a job into the queue. Raises QueueFull, QuotaExceeded, IdempotencyConflict, JobIdTaken, StoreUnavailable."""
        return await self.database.write(partial(self._transitions.submit, draft=draft))

    async def find_submitted(self, draft: JobDraft) -> Job | None:
        """Returns the job that a submit with the draft's idempotency key has made. Raises IdempotencyConflict."""
        return await self.database.read(partial(find_first, draft=draft))

    async def claim(self, worker: str) -> Job | None:
        """Gives a due job to a worker: highest priority, then the owner served longest ago, then the oldest."""
        if self._paused:
            return None  # the writer need not be asked; it looks again for one that was asked before the pause
        future = self.database.write_soon(partial(self._claim, worker=worker))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._return_unseen)
            raise

    async def succeed(self, id: str, attempt: int, outcome: Outcome, last: Sequence[JobEvent] = ()) -> bool:
        """Ends a job well; False, and nothing changes, if that attempt is not the running one any more.

        last: events that came with the end, and are kept in the same commit; see `append_events`.
        """
        return await self.database.write(
            partial(self._transitions.succeed, id=id, attempt=attempt, outcome=outcome, last=last)
        )

    async def fail(
        self, id: str, attempt: int, error: JobError, *, retry: bool, last: Sequence[JobEvent] = ()
    ) -> JobState:
        """Ends an attempt badly: to be tried again after a back-off, or failed. Returns where the job stands then.

        last: see `succeed`.
        """
        return await self.database.write(
            partial(self._transitions.fail, id=id, attempt=attempt, error=error, retry=retry, last=last)
        )

    async def worker_lost(self, id: str, attempt: int, reason: str) -> JobState:
        """The attempt's worker died: the job is tried again at once, or quarantined. Returns where the job stands then."""
        return await self.database.write(partial(self._transitions.worker_lost, id=id, attempt=attempt, reason=reason))

    async def put_back(self, id: str, attempt: int) -> bool:
        """Queues a running job again at no cost, since the server drains."""
        return await self.database.write(partial(self._transitions.put_back, id=id, attempt=attempt))

    async def cancel(self, id: str) -> Job:
        """Cancels a waiting job now, asks for it if it runs, and leaves an ended one as it is. It may be repeated."""
        _check_storable(id)
        return await self.database.write(partial(self._transitions.cancel, id=id))

    async def cancelled(self, id: str, attempt: int, last: Sequence[JobEvent] = ()) -> bool:
        """The attempt stopped because it was asked to: the job is cancelled, or failed if its deadline asked.

        last: see `succeed`.
        """
        return await self.database.write(partial(self._transitions.cancelled, id=id, attempt=attempt, last=last))

    async def get(self, id: str) -> Job:
        """Returns a job. Raises UnknownJob."""
        _check_storable(id)
        job = await self.database.read(partial(find_job, id=id))
        if job is None:
            raise UnknownJob(id)
        return job

    async def list(
        self,
        *,
        owner: str | None,
        states: Collection[JobState] | None = None,
        workflow: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Page[Job]:
        """Returns jobs, the newest first; owner None is everyone. Long documents make a page shorter than `limit`."""
        conditions: dict[str, Sequence[Any]] = {
            "jobs.number < ?": (LAST_US if before is None else min(before, LAST_US),)
        }
        if owner is not None:
            conditions["owner = ?"] = (owner,)
        if workflow is not None:
            conditions["workflow = ?"] = (workflow if is_storable(workflow) else "",)
        if states is not None:
            conditions[f"state IN ({', '.join('?' * len(states))})"] = tuple(states)
        return await self.database.read(partial(_read_jobs, conditions=conditions, limit=limit))

    async def counts(self, owner: str | None = None) -> Mapping[JobState, int]:
        """Returns how many jobs are in each state, of one owner or of all."""
        statement = "SELECT state, sum(jobs) FROM tallies WHERE ? IS NULL OR owner = ? GROUP BY state"
        rows = await self.database.read(lambda transaction: transaction.execute(statement, (owner, owner)).fetchall())
        found = {JobState(state): int(count) for state, count in rows}
        return {state: found.get(state, 0) for state in JobState}

    async def expire_deadlines(self) -> Sequence[str]:
        """Fails waiting jobs past their deadline and asks running ones to stop; returns the ids of both."""
        expired: list[str] = []
        while True:
            ids = await self.database.write(partial(self._transitions.expire, limit=_STEP))
            expired += ids
            if len(ids) < _STEP:
                return expired

    async def next_due_us(self) -> int | None:
        """Returns when the next waiting job may be claimed, which may be past; None if none waits."""
        statement = "SELECT min(not_before_us) FROM jobs WHERE state IN ('queued', 'waiting_retry')"
        due: int | None = await self.database.read(lambda transaction: transaction.value(statement))
        return due

    @property
    def paused(self) -> bool:
        """Whether nothing is claimed. It is kept across restarts."""
        return self._paused

    async def pause(self) -> None:
        """Stops claims. Submits go on."""
        await self.database.write(partial(self._set_paused, paused=True))

    async def resume(self) -> None:
        """Lets claims go on."""
        await self.database.write(partial(self._set_paused, paused=False))

    async def append_events(self, id: str, attempt: int, events: Sequence[JobEvent]) -> int:
        """Numbers and keeps events of the running attempt; returns how many were kept, 0 if that attempt is not running."""
        return await self.database.write(partial(self._transitions.append, id=id, attempt=attempt, events=events))

    async def events(self, id: str, after: int = 0, limit: int = 1000) -> Sequence[NumberedEvent]:
        """Returns the events that follow number `after`. Raises UnknownJob."""
        _check_storable(id)
        return await self._log.read(id, after, limit)

    def watch(self, id: str, after: int = 0) -> AbstractAsyncContextManager[Watcher]:
        """Watches a job's events from number `after` on. Entering it raises UnknownJob."""
        _check_storable(id)
        return self._log.watch(id, after)

    def listen(self, listener: Listener) -> None:
        """Tells a listener of the events of all jobs from now on, once they are committed. It must be quick and not fail."""
        self._log.listen(listener)

    async def wait_ended(self, id: str, timeout_seconds: float) -> Job:
        """Returns the job once it has ended, or as it is when the time is up. Raises UnknownJob."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self.watch(id, after=LAST_US) as watcher:
                async for _ in watcher:
                    pass
        return await self.get(id)

    def publish_preview(self, id: str, preview: Preview) -> None:
        """Shows a preview to those who watch the job now."""
        self._log.publish_preview(id, preview)

    def _claim(self, transaction: Transaction, worker: str) -> Job | None:
        return None if _is_paused(transaction) else self._transitions.claim(transaction, worker)

    def _return_unseen(self, claim: asyncio.Future[Job | None]) -> None:
        """Puts back a job that was claimed for a caller who has gone, so that it does not run without anyone who knows."""
        if claim.cancelled() or claim.exception() is not None:
            return
        if (job := claim.result()) is not None:
            with contextlib.suppress(StoreClosed):  # then the next start finds it running, and lets it run again
                self.database.write_soon(partial(self._transitions.put_back, id=job.id, attempt=job.attempt))

    def _set_paused(self, transaction: Transaction, paused: bool) -> None:
        def tell() -> None:
            self._paused = paused
            self.changed.tell()

        transaction.execute("INSERT OR REPLACE INTO settings (name, value) VALUES ('paused', ?)", (str(int(paused)),))
        transaction.after_commit(tell)


def _is_paused(transaction: Transaction) -> bool:
    return bool(transaction.value("SELECT value FROM settings WHERE name = 'paused'") == "1")


def _check_storable(id: str) -> None:
    if not is_storable(id):
        raise UnknownJob(id)


def _read_jobs(transaction: Transaction, *, conditions: Mapping[str, Sequence[Any]], limit: int) -> Page[Job]:
    parameters = [value for values in conditions.values() for value in values]
    jobs: list[Job] = []
    room = _PAGE_CHARACTERS
    for job in select_jobs(transaction, " AND ".join(conditions), parameters):
        if jobs and (len(jobs) >= limit or room < 0):
            return Page(tuple(jobs), jobs[-1].number)
        jobs.append(job)
        room -= len(job.document)
    return Page(tuple(jobs))

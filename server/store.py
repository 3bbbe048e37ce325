"""JobStore: the queue. A write is durable when it returns, and a change of a job is conditional on its state and attempt.

It knows no worker and no HTTP. What it promises: a job that was accepted is there after any crash, once; a message of an
attempt that is no longer the running one changes nothing; nothing leaves an end state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from .changes import Changes
from .clock import Clock, time_us
from .eventlog import Watcher
from .jobs import Job, JobDraft, JobError, JobEvent, NumberedEvent, Outcome, Page, Preview, QueueLimits, Submitted
from .records import Tokens, Uploads, Webhooks, Workflows
from .states import JobState


class JobStore:
    """The jobs of one data folder."""

    folder: Path
    clock: Clock
    changed: Changes  # told when there may be something to claim, to cancel, or to stop claiming
    workflows: Workflows
    tokens: Tokens
    uploads: Uploads
    webhooks: Webhooks

    @classmethod
    async def open(cls, folder: Path, *, clock: Clock = time_us, limits: QueueLimits = QueueLimits()) -> JobStore:  # noqa: B008
        """Locks the folder, brings the schema up to date and recovers: what was running when the server died runs again."""
        raise NotImplementedError

    async def close(self) -> None:
        """Finishes the writes that were asked for and lets go of the folder. It may be repeated."""
        raise NotImplementedError

    async def submit(self, draft: JobDraft) -> Submitted:
        """Takes a job into the queue. Raises QueueFull, QuotaExceeded, IdempotencyConflict, JobIdTaken."""
        raise NotImplementedError

    async def claim(self, worker: str) -> Job | None:
        """Gives a due job to a worker: highest priority, then the owner served longest ago, then the oldest."""
        raise NotImplementedError

    async def succeed(self, id: str, attempt: int, outcome: Outcome) -> bool:
        """Ends a job well; False, and nothing changes, if that attempt is not the running one any more."""
        raise NotImplementedError

    async def fail(self, id: str, attempt: int, error: JobError, *, retry: bool) -> JobState:
        """Ends an attempt badly: to be tried again after a back-off, or failed. Returns where the job stands then."""
        raise NotImplementedError

    async def worker_lost(self, id: str, attempt: int, reason: str) -> JobState:
        """The attempt's worker died: the job is tried again at once, or quarantined. Returns where the job stands then."""
        raise NotImplementedError

    async def put_back(self, id: str, attempt: int) -> bool:
        """Queues a running job again at no cost, since the server drains."""
        raise NotImplementedError

    async def cancel(self, id: str) -> Job:
        """Cancels a waiting job now, asks for it if it runs, and leaves an ended one as it is. It may be repeated."""
        raise NotImplementedError

    async def cancelled(self, id: str, attempt: int) -> bool:
        """The attempt stopped because it was asked to: the job is cancelled, or failed if its deadline asked."""
        raise NotImplementedError

    async def get(self, id: str) -> Job:
        """Returns a job. Raises UnknownJob."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def counts(self, owner: str | None = None) -> Mapping[JobState, int]:
        """Returns how many jobs are in each state, of one owner or of all."""
        raise NotImplementedError

    async def expire_deadlines(self) -> Sequence[str]:
        """Fails waiting jobs past their deadline and asks running ones to stop; returns the ids of both."""
        raise NotImplementedError

    async def next_due_us(self) -> int | None:
        """Returns when the next waiting job may be claimed, which may be past; None if none waits."""
        raise NotImplementedError

    @property
    def paused(self) -> bool:
        """Whether nothing is claimed. It is kept across restarts."""
        raise NotImplementedError

    async def pause(self) -> None:
        """Stops claims. Submits go on."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Lets claims go on."""
        raise NotImplementedError

    async def append_events(self, id: str, attempt: int, events: Sequence[JobEvent]) -> int:
        """Numbers and keeps events of the running attempt; returns how many were kept, 0 if that attempt is not running."""
        raise NotImplementedError

    async def events(self, id: str, after: int = 0, limit: int = 1000) -> Sequence[NumberedEvent]:
        """Returns the events that follow number `after`. Raises UnknownJob."""
        raise NotImplementedError

    def watch(self, id: str, after: int = 0) -> AbstractAsyncContextManager[Watcher]:
        """Watches a job's events from number `after` on. Entering it raises UnknownJob."""
        raise NotImplementedError

    async def wait_ended(self, id: str, timeout_seconds: float) -> Job:
        """Returns the job once it has ended, or as it is when the time is up. Raises UnknownJob."""
        raise NotImplementedError

    def publish_preview(self, id: str, preview: Preview) -> None:
        """Shows a preview to those who watch the job now."""
        raise NotImplementedError

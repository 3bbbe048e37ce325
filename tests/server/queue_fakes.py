"""What the tests of the store share: a clock that is moved by hand, a disk that breaks on demand, and drafts of jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from latentgraph.server.clock import SECOND_US
from latentgraph.server.jobs.store import JobStore
from latentgraph.server.jobs.values import (
    EventKind,
    Job,
    JobDraft,
    JobError,
    NumberedEvent,
    Outcome,
    OutputFile,
    QueueLimits,
)

PATIENCE_SECONDS = 120.0  # how long a test waits for what must come; only a broken one waits so long
DOCUMENT = '{"latentgraph":1,"nodes":{}}'
ERROR = JobError("node_failed", "it was not to be", node="sample", node_type="KSampler")
OUTCOME = Outcome(
    files={"image": (OutputFile("image_0001.png", 10, "ab" * 32, "image/png", 64, 48),)},
    values={"count": 3},
    seconds=1.5,
)


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000 * SECOND_US

    def __call__(self) -> int:
        return self.now_us

    def pass_seconds(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)


class Disk:
    """A hook that lets the writer's statements through until `fail_at` of them have come, and then breaks them.

    like: counts only statements that begin so. times: how many it breaks. gives_up: whether the transaction is lost with the
    statement, as SQLite does it when a disk is full.
    """

    def __init__(self, error: str = "database or disk is full") -> None:
        self.error = error
        self.seen = 0
        self.broken = 0
        self.fail_at: int | None = None
        self.times = 1
        self.like: str | tuple[str, ...] = ""
        self.gives_up = False

    def __call__(self, connection: sqlite3.Connection, sql: str) -> None:
        if self.fail_at is None or not sql.lstrip().startswith(self.like):
            return
        self.seen += 1
        if self.fail_at < self.seen <= self.fail_at + self.times:
            self.broken += 1
            if self.gives_up and connection.in_transaction:
                connection.execute("ROLLBACK")
            raise sqlite3.OperationalError(self.error)

    def fail(self, at: int, *, times: int = 1, like: str | tuple[str, ...] = "", gives_up: bool = False) -> None:
        """Breaks `times` statements from the one after the next `at` on."""
        self.seen, self.broken = 0, 0
        self.fail_at, self.times, self.like, self.gives_up = at, times, like, gives_up

    def mend(self) -> None:
        """Lets everything through again."""
        self.fail_at = None


@asynccontextmanager
async def opened(folder: Path, clock: Callable[[], int] | None = None, **options: Any) -> AsyncIterator[JobStore]:
    """A store that is open for a while."""
    limits = options.pop("limits", QueueLimits())
    store = await JobStore.open(folder, clock=clock or HandClock(), limits=limits, **options)
    try:
        yield store
    finally:
        await store.close()


def draft(**fields: Any) -> JobDraft:
    """A draft of a job, of which only what matters to a test is said."""
    return JobDraft(**{"document": DOCUMENT} | fields)


async def submitted(store: JobStore, **fields: Any) -> Job:
    """Submits a job and returns it."""
    return (await store.submit(draft(**fields))).job


async def claimed(store: JobStore, worker: str = "worker") -> Job:
    """Claims a job that must be there."""
    job = await store.claim(worker)
    assert job is not None
    return job


def kinds(events: list[NumberedEvent] | tuple[NumberedEvent, ...] | Any) -> list[EventKind]:
    """What events tell, in their order."""
    return [event.kind for event in events]


def check_clean(folder: Path) -> None:
    """The file is whole, and what is counted in it is what is there."""
    connection = sqlite3.connect(folder / "jobs.sqlite3")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        counted = connection.execute(
            "SELECT owner, state, count(*) FROM jobs GROUP BY owner, state ORDER BY 1, 2"
        ).fetchall()
        tallied = connection.execute("SELECT owner, state, jobs FROM tallies WHERE jobs <> 0 ORDER BY 1, 2").fetchall()
        assert tallied == counted
        assert (
            connection.execute("SELECT count(*) FROM jobs").fetchone()
            == connection.execute("SELECT count(*) FROM bodies").fetchone()
        )
        gaps = connection.execute("SELECT job FROM events GROUP BY job HAVING max(number) <> count(*)").fetchall()
        assert gaps == []
        silent = connection.execute("SELECT id FROM jobs WHERE number NOT IN (SELECT job FROM events)").fetchall()
        assert silent == []
    finally:
        connection.close()

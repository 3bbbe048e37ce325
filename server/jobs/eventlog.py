"""EventLog: the numbered events of a job, kept with it, and those who watch them live.

The events of a job count from 1 without gaps, in the order in which they were committed. A watcher first reads what is kept
and then gets new events as they come; where the two meet, or should one be missed, it reads again, so that it never skips a
number. What it has not taken yet is bounded: one that is too far behind is cut off, and may go on from its last number.
Previews go to watchers alone, the latest only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial

from ..clock import LAST_US
from ..errors import SlowReader, StoreClosed, UnknownJob
from .database import Database, Transaction
from .rows import to_json
from .states import ENDED, JobState
from .values import EventKind, JobEvent, NumberedEvent, Preview

_PAGE = 1000

Listener = Callable[[str, Sequence[NumberedEvent]], None]
"""Is told the id of a job and events of it."""


class EventLog:
    """The events of all jobs of a database."""

    def __init__(self, database: Database, *, max_events: int, backlog: int) -> None:
        self._database = database
        self._max_events = max_events
        self._backlog = backlog
        self._watchers: dict[str, set[Watcher]] = {}
        self._listeners: list[Listener] = []
        self._closed = False

    def append(
        self, transaction: Transaction, job: tuple[int, str], attempt: int, now_us: int, *events: JobEvent
    ) -> None:
        """Numbers and writes events of a job (its number and id), and shows them to its watchers once they are committed."""
        number, id = job
        last = _last_of(transaction, number)
        numbered = tuple(
            NumberedEvent(n, event.kind, attempt, now_us if event.at_us is None else event.at_us, event.data)
            for n, event in enumerate(events, last + 1)
        )
        transaction.execute_all(
            "INSERT INTO events (job, number, kind, attempt, at_us, data) VALUES (?, ?, ?, ?, ?, ?)",
            [(number, one.number, one.kind, one.attempt, one.at_us, to_json(one.data)) for one in numbered],
        )
        transaction.after_commit(partial(self._publish, id, numbered))

    def within_bound(self, transaction: Transaction, number: int, events: Sequence[JobEvent]) -> Sequence[JobEvent]:
        """Returns those of a worker's events that a job may still keep, with a warning at the end when it is the end."""
        room = self._max_events - _last_of(transaction, number)
        if len(events) <= room:
            return events
        if room <= 0:
            return ()
        message = f"a job keeps {self._max_events} events; what comes now is not kept"
        return [*events[: room - 1], JobEvent(EventKind.WARNING, {"message": message})]

    async def read(self, id: str, after: int, limit: int) -> Sequence[NumberedEvent]:
        """Returns the events that follow number `after`. Raises UnknownJob."""
        page, _, _ = await self.read_page(id, after, limit)
        return page

    async def read_page(self, id: str, after: int, limit: int) -> tuple[list[NumberedEvent], int, bool]:
        """Returns events, the number of the last one there is, and whether the job has ended, all of one moment."""
        return await self._database.read(partial(_read_page, id=id, after=after, limit=limit))

    @contextlib.asynccontextmanager
    async def watch(self, id: str, after: int) -> AsyncIterator[Watcher]:
        """Watches a job from event `after` on. Raises UnknownJob, StoreClosed."""
        if self._closed:
            raise StoreClosed
        watcher = Watcher(self, id, max(after, 0), self._backlog)
        self._watchers.setdefault(id, set()).add(watcher)  # before it reads, so that it misses nothing in between
        try:
            await watcher.read()
            yield watcher
        finally:
            watchers = self._watchers.get(id, set())
            watchers.discard(watcher)
            if not watchers:
                self._watchers.pop(id, None)

    def listen(self, listener: Listener) -> None:
        """Tells a listener of the events of all jobs, once they are committed. It must be quick and must not fail."""
        self._listeners.append(listener)

    def publish_preview(self, id: str, preview: Preview) -> None:
        """Shows a preview to those who watch the job."""
        for watcher in self._watchers.get(id, ()):
            watcher.show(preview)

    def close(self) -> None:
        """Ends all watchers."""
        self._closed = True
        for watcher in [one for watchers in self._watchers.values() for one in watchers]:
            watcher.close()

    def _publish(self, id: str, events: Sequence[NumberedEvent]) -> None:
        for watcher in self._watchers.get(id, ()):
            watcher.feed(events)
        for listener in self._listeners:
            listener(id, events)


class Watcher:
    """Gives the events of one job in order and without gaps, first those that are kept, then new ones as they come.

    Between events it may give a preview, of which only the latest is held. One task at a time may ask it.
    """

    def __init__(self, log: EventLog, id: str, after: int, backlog: int) -> None:
        self._log = log
        self._id = id
        self._last = after  # the number of the last event given
        self._newest = 0  # the number of the last event there is, as far as was told
        self._page: deque[NumberedEvent] = deque()  # read from the log
        self._live: deque[NumberedEvent] = deque()  # told since; not used while it reads the log
        self._backlog = backlog
        self._reading = True
        self._cut_off = self._ended = self._closed = False
        self._preview: Preview | None = None
        self._wake: asyncio.Future[None] | None = None

    async def next(self, timeout_seconds: float | None = None) -> NumberedEvent | Preview | None:
        """Returns what comes next; None after the last event of a job that has ended.

        Raises TimeoutError when nothing came in time (it may be called again), SlowReader when events came faster than they
        were taken (watch again from its `last`), StoreClosed when the store closes.
        """
        async with asyncio.timeout(timeout_seconds):
            while True:
                if (event := self._take()) is not None:
                    return event
                if self._reading:
                    await self.read()
                elif self._ended:
                    return None
                elif self._preview is not None:
                    preview, self._preview = self._preview, None
                    return preview
                else:
                    await self._wait()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> NumberedEvent | Preview:
        item = await self.next()
        if item is None:
            raise StopAsyncIteration
        return item

    def feed(self, events: Sequence[NumberedEvent]) -> None:
        """Is told of new events, in order."""
        self._newest = events[-1].number
        if not self._reading:
            if self._live and len(self._live) + len(events) > self._backlog:
                self._cut_off = True
                self._live.clear()
            elif len(events) > self._backlog:
                self._reading = True  # more at once than it may hold, and no fault of the reader
            elif not self._cut_off:
                self._live.extend(events)
        self._rouse()

    def show(self, preview: Preview) -> None:
        """Is told of a preview, which takes the place of one that was not taken."""
        self._preview = preview
        self._rouse()

    def close(self) -> None:
        """Is told that nothing more will come."""
        self._closed = True
        self._rouse()

    def _take(self) -> NumberedEvent | None:
        if self._page:
            return self._give(self._page.popleft())
        if self._cut_off:
            raise SlowReader(self._last)
        while self._live:
            event = self._live.popleft()
            if event.number == self._last + 1:
                return self._give(event)
            if event.number > self._last:
                self._live.clear()
                self._reading = True  # one is missing here, and the log has it
        return None

    def _give(self, event: NumberedEvent) -> NumberedEvent:
        self._last = event.number
        self._ended = event.kind is EventKind.FINISHED
        return event

    async def read(self) -> None:
        """Reads the next of what is kept. Raises UnknownJob."""
        page, last, ended = await self._log.read_page(self._id, self._last, _PAGE)
        self._last = min(self._last, last)  # it may have been told to begin after events that are not there yet
        self._page.extend(page)
        read_to = page[-1].number if page else self._last
        self._reading = read_to < max(last, self._newest)
        if ended and not page and not self._reading:
            self._ended = True  # it was watched from its last event on

    async def _wait(self) -> None:
        if self._closed:
            raise StoreClosed
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _last_of(transaction: Transaction, number: int) -> int:
    return transaction.value("SELECT max(number) FROM events WHERE job = ?", (number,)) or 0


def _read_page(transaction: Transaction, *, id: str, after: int, limit: int) -> tuple[list[NumberedEvent], int, bool]:
    job = transaction.row("SELECT number, state FROM jobs WHERE id = ?", (id,))
    if job is None:
        raise UnknownJob(id)
    rows: Iterable[tuple[int, str, int, int, str]] = transaction.execute(
        "SELECT number, kind, attempt, at_us, data FROM events WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
        (job["number"], min(max(after, 0), LAST_US), max(limit, 0)),
    )
    page = [
        NumberedEvent(n, EventKind(kind), attempt, at_us, json.loads(data)) for n, kind, attempt, at_us, data in rows
    ]
    return page, _last_of(transaction, job["number"]), JobState(job["state"]) in ENDED

"""One attempt of one job on one worker: from the claim to what the store is told of its end.

It knows what a job may do and how long; how a worker lives is `process`' business. Whatever happens, the attempt is settled
once: as the worker says, or as lost, or as cancelled or put back where that was asked for. If the store can't be written it is
asked again until it can; a server that ends before leaves the job as running, and the next one runs it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..errors import MalformedMessage, OutputRefused, StoreClosed, StoreUnavailable, UnknownJob, WorkerGone
from ..jobs import publishing
from ..jobs.states import JobState
from ..jobs.store import JobStore
from ..jobs.values import EventKind, Job, JobError, JobEvent, NodeOutcome, Outcome, Preview
from .messages import CancelJob, Done, EventTold, FromWorker, PreviewMade, Refused, RunJob
from .process import WorkerLimits, WorkerProcess

T = TypeVar("T")

_JPEG = b"\xff\xd8\xff"
_STEP_SECONDS = 0.5  # how often time limits are looked at
_TOGETHER_SECONDS = 0.01  # what a worker says within this is kept in one commit
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0  # between tries of a store that can't be written

_log = logging.getLogger(__name__)


class Attempt:
    """An attempt under way. hurry: set when there is no more time for a store that can't be written."""

    def __init__(
        self, store: JobStore, process: WorkerProcess, job: Job, limits: WorkerLimits, *, hurry: asyncio.Event
    ) -> None:
        self.job = job
        self.cancel_asked = False
        self._store, self._process, self._limits, self._hurry = store, process, limits, hurry
        self._put_back = self._cancel_sent = False
        self._cancel_seconds = 0.0
        self._stillness = Stillness(limits.node_timeout_seconds)
        self._name = f"job {job.id}, attempt {job.attempt}"
        self._extra = {"job": job.id, "attempt": job.attempt, "worker": process.slot.name}

    async def follow(self, *, previews: bool) -> bool:
        """Runs the attempt and settles it; returns whether the worker may go on."""
        _log.info("%s: begins on worker %s", self._name, self._process.slot.name, extra=self._extra)
        try:
            try:
                return await self._run(previews)
            except WorkerGone as gone:
                await self._lose(str(gone))
            except (StoreUnavailable, StoreClosed):
                raise
            except Exception:  # noqa: BLE001 - nothing that a job or a worker does may end the supervisor
                _log.exception("%s: the server failed to follow it", self._name, extra=self._extra)
                await self._lose("the server failed to follow it; its log says why")
        except (StoreUnavailable, StoreClosed) as error:
            _log.error("%s: is left as running, since %s", self._name, error, extra=self._extra)
        finally:
            await asyncio.to_thread(publishing.discard_attempt, self._store.folder, self.job.id, self.job.attempt)
        return False

    def ask_cancel(self) -> None:
        """Has the worker stop the job. It may be repeated."""
        self.cancel_asked = True
        self._process.wake()

    def put_back(self) -> None:
        """Ends the attempt now, and its worker, so that the job can be queued again."""
        self._put_back = True
        self._process.kill("the server drained")

    async def _run(self, previews: bool) -> bool:
        try:
            await self._begin(previews)
        except OSError as error:
            await self._fail(
                JobError("no_output_folder", f"the output folder can't be made: {_reason(error)}"), retry=True
            )
            return True
        except MalformedMessage as error:
            await self._fail(JobError("too_large", f"the job can't be given to a worker: {error}"), retry=False)
            return True
        loop, step = asyncio.get_running_loop(), min(_STEP_SECONDS, self._shortest_limit / 10)
        before = loop.time()
        while True:
            batch = await self._receive(step)
            if (usable := await self._take(batch)) is not None:
                return usable
            now = loop.time()
            await self._check_time(min(now - before, 2 * step))  # a server that stood still blames nobody for it
            before = now

    async def _receive(self, timeout_seconds: float) -> list[FromWorker]:
        """Returns what the worker said, with what follows at once, so that a short job's end is in one commit with the rest."""
        loop = asyncio.get_running_loop()
        batch = await self._process.receive(timeout_seconds)
        until = loop.time() + _TOGETHER_SECONDS
        while batch and not isinstance(batch[-1], Done | Refused) and (left := until - loop.time()) > 0:
            try:
                more = await self._process.receive(left)
            except WorkerGone:
                break  # it is gone the next time, too
            if not more:
                break
            batch += more
        return batch

    async def _begin(self, previews: bool) -> None:
        job = self.job
        folder = await asyncio.to_thread(publishing.make_attempt_folder, self._store.folder, job.id, job.attempt)
        message = RunJob(
            job=job.id,
            attempt=job.attempt,
            document=job.document,
            params=job.params,
            outputs=job.outputs,
            output_dir=str(folder.absolute()),
            previews=previews,
        )
        self._process.forget_log()  # what it wrote before is of other jobs, and not for the eyes of this one's owner
        await self._process.send(message)

    async def _take(self, batch: list[FromWorker]) -> bool | None:
        """Passes on what the worker said. Returns whether the worker may go on if the attempt is over, else None."""
        events: list[JobEvent] = []
        end: Done | Refused | None = None
        for message in batch:
            match message:
                case EventTold() if self._is_mine(message):
                    self._stillness.heard(message)
                    events.append(_event(message))
                case PreviewMade() if self._is_mine(message):
                    if message.jpeg.startswith(_JPEG):
                        self._store.publish_preview(self.job.id, Preview(message.attempt, message.node, message.jpeg))
                case Done() | Refused():
                    end = message
        if end is not None and self._is_mine(end):
            return await self._settle(end, events)
        if events:
            await self._insist(lambda: self._store.append_events(self.job.id, self.job.attempt, events))
        if end is not None:
            raise WorkerGone("it ended a job that it had not been given")
        return None

    def _is_mine(self, message: EventTold | PreviewMade | Done | Refused) -> bool:
        return (message.job, message.attempt) == (self.job.id, self.job.attempt)

    @property
    def _shortest_limit(self) -> float:
        return min(self._limits.node_timeout_seconds, self._limits.cancel_grace_seconds)

    async def _check_time(self, seconds: float) -> None:
        """Sends a cancel that was asked for, and kills a worker that takes too long for it, or for a node."""
        if self.cancel_asked and not self._cancel_sent:
            self._cancel_sent = True
            await self._process.send(CancelJob(job=self.job.id, attempt=self.job.attempt))
        elif self._cancel_sent:
            self._cancel_seconds += seconds
            if self._cancel_seconds >= self._limits.cancel_grace_seconds:
                self._process.kill(f"it did not stop within {self._limits.cancel_grace_seconds:g} s of a cancel")
        if (still := self._stillness.pass_time(seconds)) is not None:
            what = f"node {still!r}" if still else "the job"
            self._process.kill(f"{what} told nothing for {self._limits.node_timeout_seconds:g} s")

    async def _settle(self, end: Done | Refused, last: Sequence[JobEvent]) -> bool:
        """Tells the store the last events and how the attempt ended; returns whether the worker may go on."""
        id, attempt = self.job.id, self.job.attempt
        if isinstance(end, Refused):
            _log.error("%s: was refused: %s", self._name, end.reason, extra=self._extra)
            await self._insist(lambda: self._store.put_back(id, attempt))
            return False
        if end.status == "succeeded":
            await self._succeed(end, last)
        elif self.cancel_asked:
            await self._insist(lambda: self._store.cancelled(id, attempt, last))
        elif end.error is not None:
            error = end.error
            told = JobError(error.code, error.message, error.node, error.node_type, error.detail)
            await self._fail(told, retry=error.retry, last=last)
        else:
            unexplained = JobError(end.status, f"the worker says that the job {end.status}, and not why")
            await self._fail(unexplained, retry=False, last=last)
        _log.info("%s: %s after %.3f s", self._name, end.status, end.seconds, extra=self._extra)
        return True

    async def _succeed(self, done: Done, last: Sequence[JobEvent]) -> None:
        id, attempt, data = self.job.id, self.job.attempt, self._store.folder
        try:
            files = await asyncio.to_thread(publishing.publish, data, id, attempt, done.files)
        except OutputRefused as error:
            await self._fail(JobError("output_refused", str(error)), retry=False, last=last)
            return
        except OSError as error:
            unwritten = JobError("not_published", f"the outputs can't be written: {_reason(error)}")
            await self._fail(unwritten, retry=True, last=last)
            return
        nodes = {name: NodeOutcome(node.status, node.tier, node.seconds) for name, node in done.nodes.items()}
        outcome = Outcome(files, done.values, nodes, done.seconds)
        if not await self._insist(lambda: self._store.succeed(id, attempt, outcome, last)):
            await self._take_back()

    async def _take_back(self) -> None:
        """Removes what was published of an attempt that does not count any more."""
        try:
            if (await self._insist(lambda: self._store.get(self.job.id))).state is JobState.SUCCEEDED:
                return  # the store had written it, and failed to say so
        except UnknownJob:
            pass
        await asyncio.to_thread(publishing.discard, publishing.outputs_folder(self._store.folder, self.job.id))

    async def _fail(self, error: JobError, *, retry: bool, last: Sequence[JobEvent] = ()) -> None:
        id, attempt = self.job.id, self.job.attempt
        state = await self._insist(lambda: self._store.fail(id, attempt, error, retry=retry, last=last))
        _log.info("%s: %s, so it is %s", self._name, error.message, state, extra=self._extra)

    async def _lose(self, how: str) -> None:
        """Settles an attempt whose worker is gone, or has to go."""
        with contextlib.suppress(TimeoutError):  # two attempts of one job should not run at a time
            async with asyncio.timeout(self._limits.exit_seconds):
                await self._process.end(how)
        id, attempt = self.job.id, self.job.attempt
        if self.cancel_asked:
            await self._insist(lambda: self._store.cancelled(id, attempt))
        elif self._put_back:
            await self._insist(lambda: self._store.put_back(id, attempt))
        else:
            reason = self._obituary(how)
            state = await self._insist(lambda: self._store.worker_lost(id, attempt, reason))
            _log.warning("%s: lost its worker, so it is %s: %s", self._name, state, reason, extra=self._extra)

    def _obituary(self, how: str) -> str:
        """Returns what is known of a worker's end: how, at which nodes, and what it wrote last."""
        nodes = ", ".join(repr(node) for node in self._stillness.running)
        where = f"at node {nodes}" if nodes else "between nodes"
        head = f"{how} ({where}; worker {self._process.slot.name}, process {self._process.pid})"
        tail = self._process.log_tail
        return "\n  ".join((f"{head}. The last lines of its log:", *tail)) if tail else head

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the store until it can answer. Raises StoreUnavailable if there is no more time for that."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await ask()
            except StoreUnavailable as error:
                if self._hurry.is_set():
                    raise
                _log.error("%s: waits, since %s", self._name, error, extra=self._extra)
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class Stillness:
    """How long the running nodes of a job have told nothing, and the job itself (under the name "")."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._still = {"": 0.0}

    @property
    def running(self) -> tuple[str, ...]:
        """The nodes that began and did not end."""
        return tuple(node for node in self._still if node)

    def heard(self, event: EventTold) -> None:
        """Notes that something happened to the job, and to a node."""
        self._still[""] = 0.0
        if event.kind in (EventKind.NODE_FINISHED, EventKind.NODE_FAILED, EventKind.NODE_CACHED):
            self._still.pop(event.node, None)
        elif event.node and (event.kind is EventKind.NODE_STARTED or event.node in self._still):
            self._still[event.node] = 0.0

    def pass_time(self, seconds: float) -> str | None:
        """Lets time pass; returns the name of what has told nothing for too long, if anything has."""
        for name in self._still:
            self._still[name] += seconds
        over = [name for name, still in self._still.items() if still >= self._limit]
        return max(over) if over else None  # of several a node, rather than the job


def _reason(error: OSError) -> str:
    """Returns what went wrong, without a path of this machine."""
    return error.strerror or type(error).__name__


def _event(told: EventTold) -> JobEvent:
    where = {"node": told.node, "node_type": told.node_type}
    return JobEvent(told.kind, {**told.data, **{name: text for name, text in where.items() if text}})

"""The supervisor: keeps a worker alive in every slot, and hands each the jobs that the store gives it.

It knows neither what a job computes nor how it is stored. The invariant: whatever a worker or a job does, every slot gets a
living worker again, and a job that was claimed is settled (`attempt`). A worker that dies while it runs a job is replaced at
once; one that dies before it is ready is replaced after a pause that grows, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..clock import SECOND_US
from ..errors import StoreClosed, StoreUnavailable, UnknownJob, WorkerGone
from ..jobs.changes import Changes
from ..jobs.store import JobStore
from ..jobs.values import Job
from .attempt import Attempt
from .process import StartWorker, WorkerLimits, WorkerProcess, WorkerSlot

_LOOK_SECONDS = 1.0  # how often the store is asked for cancels and deadlines, told of them or not
_LONGEST_WAIT_SECONDS, _SHORTEST_WAIT_SECONDS = 5.0, 0.05  # between claims by an idle worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A slot as it stands. state: "down", "starting", "idle" or "busy". starts: of workers. last_end: how the last ended.

    versions, environment: as the worker told (`messages.Ready`).
    """

    name: str
    device: str
    state: str
    pid: int | None
    job: str | None
    attempt: int | None
    rss_bytes: int
    memory: Mapping[str, int]
    versions: Mapping[str, str]
    environment: str
    starts: int
    last_end: str


@dataclass(eq=False, slots=True)
class _Place:
    """What is in a slot.

    failures: workers in a row that died before they were ready. seen: stops that were asked for before the last claim.
    """

    slot: WorkerSlot
    process: WorkerProcess | None = None
    attempt: Attempt | None = None
    starts: int = 0
    failures: int = 0
    seen: int = 0
    last_end: str = ""

    def view(self) -> WorkerView:
        """Returns how the slot stands."""
        process, attempt = self.process, self.attempt
        ready = process is not None and process.facts is not None
        state = "down" if process is None else "starting" if not ready else "idle" if attempt is None else "busy"
        return WorkerView(
            name=self.slot.name,
            device=process.facts.device if process and process.facts else self.slot.device,
            state=state,
            pid=process.pid if process else None,
            job=attempt.job.id if attempt else None,
            attempt=attempt.job.attempt if attempt else None,
            rss_bytes=process.beat.rss_bytes if process else 0,
            memory=process.beat.memory if process else {},
            versions=process.facts.versions if process and process.facts else {},
            environment=process.facts.environment if process and process.facts else "",
            starts=self.starts,
            last_end=self.last_end,
        )


class Supervisor:
    """Runs the jobs of a store on worker processes, from `start` to `drain`. previews: whether workers make them."""

    def __init__(
        self,
        store: JobStore,
        slots: Sequence[WorkerSlot],
        start_worker: StartWorker,
        *,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008 - frozen
        previews: bool = True,
    ) -> None:
        self.changed = Changes()
        self._store, self._start_worker, self._limits, self._previews = store, start_worker, limits, previews
        self._places = [_Place(slot) for slot in slots]
        self._draining, self._hurry = asyncio.Event(), asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._lookers: list[asyncio.Task[None]] = []

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """The slots as they stand. `changed` tells when one does."""
        return tuple(place.view() for place in self._places)

    @property
    def ready(self) -> bool:
        """Whether a worker is warm."""
        return any(place.process is not None and place.process.facts is not None for place in self._places)

    async def start(self) -> None:
        """Starts the workers; jobs are claimed as soon as one is warm."""
        self._keepers = [asyncio.create_task(self._keep(place), name=place.slot.name) for place in self._places]
        self._lookers = [asyncio.create_task(self._wake_idle()), asyncio.create_task(self._look())]

    async def drain(self, grace_seconds: float | None = None) -> None:
        """Stops claims, waits for running jobs, puts back those that take longer than the grace, and ends the workers."""
        self._draining.set()
        self._wake()
        if self._keepers:
            grace = self._limits.drain_grace_seconds if grace_seconds is None else grace_seconds
            await asyncio.wait(self._keepers, timeout=grace)
            self._hurry.set()
            for place in self._places:
                if place.attempt is not None:
                    place.attempt.put_back()
            await asyncio.wait(self._keepers, timeout=2 * self._limits.exit_seconds)
        for task in (*self._keepers, *self._lookers):
            task.cancel()
        await asyncio.gather(*self._keepers, *self._lookers, return_exceptions=True)

    async def _keep(self, place: _Place) -> None:
        """Keeps a worker in a slot until the server drains."""
        limits = self._limits
        while not self._draining.is_set():
            try:
                await self._employ(place)
            except StoreClosed:
                return
            except Exception:  # noqa: BLE001 - the slot must get a worker again, whatever went wrong
                _log.exception("worker %s can't be started or kept", place.slot.name)
                place.failures += 1
            if place.failures and not self._draining.is_set():
                pause = min(limits.back_off_seconds * 2.0 ** min(place.failures - 1, 30), limits.back_off_cap_seconds)
                _log.warning("worker %s: the next one is started in %g s", place.slot.name, pause)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._draining.wait()

    async def _employ(self, place: _Place) -> None:
        """Starts a worker, has it run jobs, and sees to its end."""
        process = await WorkerProcess.start(place.slot, self._start_worker(place.slot), self._limits)
        place.process, place.starts = process, place.starts + 1
        place.failures += 1  # unless it does something, or lives long
        begun, reason = asyncio.get_running_loop().time(), ""
        try:
            self.changed.tell()
            while process.facts is None and not self._draining.is_set():
                await process.receive(_LOOK_SECONDS)
            if process.facts is None:
                reason = "the server drained before it was ready"
            self.changed.tell()
            while (job := await self._next_job(place, process)) is not None:
                usable = await self._attempt(place, process, job)
                place.failures = 0
                if not usable:
                    reason = "its job was given up"
                    break
        except WorkerGone as gone:
            _log.error("worker %s (process %d) is gone: %s", place.slot.name, process.pid, gone)
        except BaseException:
            reason = "the server gave it up"
            raise
        finally:
            await process.end(reason)
            if asyncio.get_running_loop().time() - begun >= self._limits.back_off_cap_seconds:
                place.failures = 0
            place.process, place.last_end = None, process.how_it_ended
            self.changed.tell()

    async def _next_job(self, place: _Place, process: WorkerProcess) -> Job | None:
        """Returns a job for an idle worker once there is one; None once the server drains. Raises WorkerGone."""
        wait_seconds = 0.0
        while not self._draining.is_set():
            await process.receive(wait_seconds)  # nothing is said by an idle worker; a change wakes it
            place.seen = self._store.stops.count
            try:
                job = await self._store.claim(place.slot.name)
                if job is not None and self._draining.is_set():
                    await self._store.put_back(job.id, job.attempt)
                elif job is not None:
                    return job
                wait_seconds = await self._seconds_until_due()
            except StoreUnavailable as error:
                _log.error("worker %s gets no job, since %s", place.slot.name, error)
                wait_seconds = _LOOK_SECONDS
        return None

    async def _seconds_until_due(self) -> float:
        due_us = None if self._store.paused else await self._store.next_due_us()
        if due_us is None:
            return _LONGEST_WAIT_SECONDS
        seconds = (due_us - self._store.clock()) / SECOND_US
        return min(max(seconds, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)

    async def _attempt(self, place: _Place, process: WorkerProcess, job: Job) -> bool:
        """Has a worker run a job; returns whether it may go on."""
        place.attempt = Attempt(self._store, process, job, self._limits, hurry=self._hurry)
        try:
            self.changed.tell()
            if self._store.stops.count != place.seen:  # it may have been cancelled since; from here on `_look` is told
                await self._look_for_cancel(place.attempt)
            return await place.attempt.follow(previews=self._previews)
        finally:
            place.attempt = None
            self.changed.tell()

    async def _wake_idle(self) -> None:
        """Has idle workers look for jobs whenever there may be one."""
        seen = self._store.changed.count
        while True:
            self._wake()
            seen = await self._store.changed.after(seen)

    def _wake(self) -> None:
        for place in self._places:
            if place.process is not None and place.attempt is None:
                place.process.wake()

    async def _look(self) -> None:
        """Sees to deadlines, and to running jobs that are to be cancelled."""
        loop = asyncio.get_running_loop()
        expiry = loop.time()
        while True:
            seen = self._store.stops.count
            try:
                if loop.time() >= expiry:
                    expiry = loop.time() + _LOOK_SECONDS
                    await self._store.expire_deadlines()
                for place in self._places:
                    if place.attempt is not None:
                        await self._look_for_cancel(place.attempt)
            except StoreClosed:
                return
            except Exception:  # noqa: BLE001 - the next look may go better
                _log.exception("deadlines and cancels could not be looked for")
            await self._store.stops.after(seen, _LOOK_SECONDS)

    async def _look_for_cancel(self, attempt: Attempt) -> None:
        if attempt.cancel_asked:
            return
        with contextlib.suppress(StoreUnavailable, UnknownJob):  # it is looked for again
            if (await self._store.get(attempt.job.id)).cancel_requested:
                attempt.ask_cancel()

"""The worker's end of the channel: takes jobs, runs them one at a time through a Runner, and tells what happens.

It knows neither nodes nor the engine; a Runner does. Three promises: what is told of a job is told before its `done`, a cancel
touches the attempt that it names and no other, and when the channel closes the process ends at once, whatever it computes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, Protocol

from ..errors import MalformedMessage
from .messages import (
    MAX_PREVIEW_BYTES,
    MAX_TEXT,
    Beat,
    CancelJob,
    Done,
    EventTold,
    Exit,
    Failure,
    FromServer,
    Lines,
    Message,
    PreviewMade,
    Ready,
    Refused,
    RunJob,
    Told,
    read_from_server,
    write_line,
)

BEAT_SECONDS = 1.0
EXIT_ORPHANED = 70
"""The exit code of a worker whose server went away."""

_KILL_FIRST = "500"  # of 1000: where memory runs out, the kernel takes a worker before the server
_PIECE_BYTES = 1 << 16

_log = logging.getLogger(__name__)


class Cancellation:
    """Whether a job was asked to stop. It is set at most once, from any thread."""

    def __init__(self) -> None:
        self._flag = Flag()
        self._lock = Lock()
        self._stops: list[Callable[[], None]] = []

    @property
    def asked(self) -> bool:
        """Whether the job was asked to stop."""
        return self._flag.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Waits until the job is asked to stop; returns whether it was."""
        return self._flag.wait(timeout_seconds)

    def call(self, stop: Callable[[], None]) -> None:
        """Has `stop` called, once, when the job is asked to stop: now if it was already. It must return soon."""
        with self._lock:
            if not self.asked:
                self._stops.append(stop)
                return
        stop()

    def ask(self) -> None:
        """Asks the job to stop. It may be repeated."""
        with self._lock:
            self._flag.set()
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()


class Report:
    """What a Runner tells of its job while it runs. Safe to use from several threads; after the job's end it says nothing."""

    def __init__(self, job: RunJob, send: Callable[[Message], None]) -> None:
        self._job, self._send = job, send
        self._lock = Lock()
        self._open = True

    def event(self, kind: Told, node: str = "", node_type: str = "", **data: Any) -> None:
        """Tells an event of a node; `data` is JSON. Texts are cut to MAX_TEXT."""
        cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in data.items()}
        message = EventTold(
            job=self._job.job, attempt=self._job.attempt, kind=kind, node=node, node_type=node_type, data=cut
        )
        self._tell(message)

    def preview(self, node: str, jpeg: bytes) -> None:
        """Shows what a node has so far, as a JPEG; one larger than MAX_PREVIEW_BYTES is not shown."""
        if len(jpeg) <= MAX_PREVIEW_BYTES:
            self._tell(PreviewMade(job=self._job.job, attempt=self._job.attempt, node=node, jpeg=jpeg))

    def close(self) -> None:
        """Says nothing more from here on."""
        with self._lock:
            self._open = False

    def _tell(self, message: Message) -> None:
        with self._lock:
            if self._open:
                self._send(message)


class Runner(Protocol):
    """Runs jobs. Its methods are called from one thread, but for `memory`, which must return at once from any."""

    def warm_up(self) -> Ready:
        """Loads what every job needs, and tells what jobs will be computed on."""
        ...

    def run(self, job: RunJob, report: Report, cancellation: Cancellation) -> Done:
        """Runs a job to its end, failures included, and returns what came of it."""
        ...

    def memory(self) -> Mapping[str, int]:
        """Returns the bytes in use, by what holds them."""
        ...

    def close(self) -> None:
        """Lets go of everything, since no job comes any more."""
        ...


def failed(job: RunJob, failure: Failure, seconds: float = 0.0) -> Done:
    """Returns the end of a job that failed."""
    cut = failure.model_copy(update={"message": failure.message[:MAX_TEXT], "detail": failure.detail[-MAX_TEXT:]})
    return Done(job=job.job, attempt=job.attempt, status="failed", error=cut, seconds=seconds)


def serve_jobs(
    channel: socket.socket,
    runner: Runner,
    *,
    beat_seconds: float = BEAT_SECONDS,
    abandon: Callable[[], None] = lambda: os._exit(EXIT_ORPHANED),
) -> None:
    """Runs the jobs that come through a channel until it says `exit`; the process may end then.

    abandon: what is done when the channel closes or is not understood, from whichever thread finds out.
    """
    _offer_to_be_killed_first()
    worker = _Worker(channel, runner, abandon)
    ending = Flag()
    worker.beat()
    Thread(target=worker.beat_until, args=(ending, beat_seconds), name="latentgraph-beat", daemon=True).start()
    try:
        worker.send(runner.warm_up())
        Thread(target=worker.listen, name="latentgraph-channel", daemon=True).start()
        worker.work()
        runner.close()
    finally:
        ending.set()


class _Worker:
    """What the threads of a worker share: the channel, and the job that was taken and is not done."""

    def __init__(self, channel: socket.socket, runner: Runner, abandon: Callable[[], None]) -> None:
        self._channel, self._runner, self._abandon = channel, runner, abandon
        self._sending, self._lock = Lock(), Lock()
        self._inbox: SimpleQueue[tuple[RunJob, Cancellation] | None] = SimpleQueue()
        self._taken: tuple[RunJob, Cancellation] | None = None

    def send(self, message: Message) -> None:
        """Tells the server something. Raises MalformedMessage if it is too long to be told."""
        line = write_line(message)
        try:
            with self._sending:
                self._channel.sendall(line)
        except OSError:
            self._abandon()

    def beat(self) -> None:
        """Shows that the process lives."""
        self.send(Beat(rss_bytes=_rss_bytes(), memory=self._runner.memory()))

    def beat_until(self, ending: Flag, seconds: float) -> None:
        """Shows that the process lives, again and again until it ends."""
        while not ending.wait(seconds):
            self.beat()

    def listen(self) -> None:
        """Takes what the server says until it says `exit`, or can't be heard any more."""
        try:
            for message in self._messages():
                match message:
                    case RunJob():
                        self._take(message)
                    case CancelJob():
                        self._cancel(message)
                    case Exit():
                        return
        except (OSError, MalformedMessage) as error:
            _log.error("the server is not understood: %s; the worker ends", error)
        except Exception:  # noqa: BLE001 - a worker that no longer listens must not stay
            _log.exception("the channel can't be served; the worker ends")
        else:
            _log.error("the server went away; the worker ends")
        finally:
            self._inbox.put(None)
        self._abandon()

    def work(self) -> None:
        """Runs jobs as they come, until no more will."""
        while (taken := self._inbox.get()) is not None:
            job, cancellation = taken
            done = self._run(job, cancellation)
            with self._lock:
                self._taken = None  # before the server knows: its next job may come at once
            self._send_done(done)

    def _messages(self) -> Iterator[FromServer]:
        lines = Lines()
        while piece := self._channel.recv(_PIECE_BYTES):
            for line in lines.feed(piece):
                yield read_from_server(line)

    def _take(self, job: RunJob) -> None:
        with self._lock:
            busy = self._taken
            if busy is None:
                self._taken = (job, Cancellation())
                self._inbox.put(self._taken)
                return
        reason = f"the worker is busy with attempt {busy[0].attempt} of job {busy[0].job}"
        self.send(Refused(job=job.job, attempt=job.attempt, reason=reason))

    def _cancel(self, message: CancelJob) -> None:
        with self._lock:
            taken = self._taken
        if taken is not None and taken[0].same_attempt(message):
            taken[1].ask()

    def _run(self, job: RunJob, cancellation: Cancellation) -> Done:
        """Runs a job, and closes its report."""
        report = Report(job, self.send)
        begun = time.perf_counter()
        try:
            return self._runner.run(job, report, cancellation)
        except Exception as error:  # noqa: BLE001 - whatever a job does, the next one may run
            _log.exception("job %s, attempt %d: the runner failed", job.job, job.attempt)
            message = f"{type(error).__name__}: {error}"
            return failed(job, Failure(code="worker_failed", message=message), time.perf_counter() - begun)
        finally:
            report.close()

    def _send_done(self, done: Done) -> None:
        try:
            self.send(done)
        except MalformedMessage as error:
            message = f"what the job gave can't be told: {error}; give fewer or smaller values as outputs"
            failure = Failure(code="outcome_too_large", message=message)
            self.send(
                done.model_copy(update={"status": "failed", "error": failure, "files": {}, "values": {}, "nodes": {}})
            )


def _rss_bytes() -> int:
    """Returns the memory that the process has in use; where that can't be told, the most that it had."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _offer_to_be_killed_first() -> None:
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_KILL_FIRST, "ascii")

"""The worker's end of the channel, with a toy runner in threads of the test: the test plays the server."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from latentgraph.server.jobs.values import EventKind
from latentgraph.server.workers.messages import (
    MAX_PREVIEW_BYTES,
    MAX_TEXT,
    Beat,
    CancelJob,
    Done,
    EventTold,
    Exit,
    FromServer,
    FromWorker,
    Lines,
    PreviewMade,
    Ready,
    Refused,
    RunJob,
    read_from_worker,
    write_line,
)
from latentgraph.server.workers.worker import Cancellation, Report, Runner, serve_jobs

from .toy_worker import PATIENCE_SECONDS, ToyRunner


class Server:
    """The other end: says what it is told to, and hears what the worker says, but for beats."""

    def __init__(self, channel: socket.socket, folder: Path) -> None:
        self.channel, self.folder = channel, folder
        self.beats = 0
        self._heard = self._hear()

    def say(self, message: FromServer) -> None:
        self.channel.sendall(write_line(message))

    def ask(self, job: str, *actions: list[Any], attempt: int = 1, **fields: Any) -> None:
        text = json.dumps(actions)
        self.say(RunJob(job=job, attempt=attempt, document=text, output_dir=str(self.folder), **fields))

    def next(self, *, beats: bool = False) -> FromWorker:
        while True:
            message = next(self._heard)
            if not isinstance(message, Beat):
                return message
            self.beats += 1
            if beats:
                return message

    def done(self) -> Done:
        """Returns the end of a job; what is told before is left out."""
        while not isinstance(message := self.next(), Done):
            pass
        return message

    def until(self, kind: EventKind) -> EventTold:
        while not (isinstance(message := self.next(), EventTold) and message.kind is kind):
            pass
        return message

    def _hear(self) -> Iterator[FromWorker]:
        lines = Lines()
        while piece := self.channel.recv(1 << 16):
            yield from map(read_from_worker, lines.feed(piece))


@contextlib.contextmanager
def worker_of(
    make: Callable[[socket.socket], Runner], tmp_path: Path, *, abandoned: Flag, beat_seconds: float = 0.02
) -> Iterator[Server]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    runner = make(theirs)
    thread = Thread(
        target=serve_jobs,
        args=(theirs, runner),
        daemon=True,
        kwargs={"beat_seconds": beat_seconds, "abandon": abandoned.set},
    )
    thread.start()
    server = Server(ours, tmp_path)
    yield server
    with contextlib.suppress(OSError):
        server.say(Exit())
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    ours.close()
    theirs.close()


@pytest.fixture
def abandoned() -> Flag:
    """Set once the worker would end its process."""
    return Flag()


@pytest.fixture
def server(tmp_path: Path, abandoned: Flag) -> Iterator[Server]:
    with worker_of(ToyRunner, tmp_path, abandoned=abandoned) as server:
        assert server.next() == Ready(device="toy", versions={"toy": "1"})
        yield server


def test_a_job_is_told_from_its_first_node_to_its_end(server: Server) -> None:
    server.ask("a", ["steps", 2], ["write", "image", "x/cat.png", "meow"], ["value", "number", 7])
    told = [server.next() for _ in range(8)]
    assert [message.kind for message in told if isinstance(message, EventTold)] == [
        EventKind.NODE_STARTED,
        EventKind.PROGRESS,
        EventKind.PROGRESS,
        EventKind.NODE_FINISHED,
        *[EventKind.NODE_STARTED, EventKind.NODE_FINISHED] * 2,
    ]
    done = server.done()
    assert (done.job, done.attempt, done.status) == ("a", 1, "succeeded")
    assert (done.files, done.values) == ({"image": ("x/cat.png",)}, {"number": 7})
    assert list(done.nodes) == ["steps", "write", "value"]


def test_jobs_run_one_after_the_other(server: Server) -> None:
    for job in ("a", "b", "c"):
        server.ask(job, ["steps", 1])
        assert server.done().job == job


def test_a_cancel_stops_the_job_that_it_names(server: Server) -> None:
    server.ask("a", ["wait", "/nowhere/to/be/found"])
    server.until(EventKind.NODE_STARTED)
    server.say(CancelJob(job="a", attempt=1))
    assert server.done().status == "cancelled"


def test_a_cancel_that_comes_with_the_job_stops_it(server: Server) -> None:
    """The job is taken, and has not begun."""
    job = RunJob(job="a", attempt=1, document='[["wait", "/nowhere"]]', output_dir=str(server.folder))
    server.channel.sendall(write_line(job) + write_line(CancelJob(job="a", attempt=1)))
    assert server.done().status == "cancelled"


@pytest.mark.parametrize("late", [CancelJob(job="a", attempt=1), CancelJob(job="b", attempt=1)])
def test_a_cancel_for_a_job_that_is_over_hits_no_other(server: Server, late: CancelJob) -> None:
    """Neither another job nor another attempt of the same one."""
    server.ask("a", ["steps", 1])
    server.done()
    server.say(late)
    server.ask("b", ["steps", 1], attempt=2)
    server.say(late)
    assert server.done().status == "succeeded"


def test_a_second_job_at_a_time_is_refused_and_the_first_goes_on(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server.ask("a", ["wait", str(gate)])
    server.until(EventKind.NODE_STARTED)
    server.ask("b", ["steps", 1])
    refused = server.next()
    assert isinstance(refused, Refused)
    assert (refused.job, refused.attempt) == ("b", 1)
    assert "job a" in refused.reason
    gate.touch()
    assert (server.done().status, server.beats > 0) == ("succeeded", True)


def test_a_runner_that_raises_costs_its_job_alone(server: Server) -> None:
    server.ask("a", ["raise", "broken"])
    error = server.done().error
    assert error is not None
    assert (error.code, error.message, error.retry) == ("worker_failed", "RuntimeError: broken", False)
    server.ask("b", ["steps", 1])
    assert server.done().status == "succeeded"


def test_what_is_too_large_to_tell_fails_the_job(server: Server) -> None:
    server.ask("a", ["large", "text", 40])
    done = server.done()
    assert (done.status, done.values) == ("failed", {})
    assert done.error is not None
    assert done.error.code == "outcome_too_large"


def test_previews_are_made_where_they_are_wanted(server: Server) -> None:
    server.ask("a", ["preview", "cat"], previews=True)
    server.until(EventKind.NODE_STARTED)
    preview = server.next()
    assert isinstance(preview, PreviewMade)
    assert preview.jpeg == b"\xff\xd8\xffcat"
    server.done()  # before another job is asked for, which would be refused
    server.ask("b", ["preview", "cat"])
    while not isinstance(message := server.next(), Done):
        assert not isinstance(message, PreviewMade)


def test_a_closed_channel_ends_the_process_while_a_job_runs(server: Server, abandoned: Flag, tmp_path: Path) -> None:
    server.ask("a", ["ignore", str(tmp_path / "gate")])
    server.until(EventKind.NODE_STARTED)
    server.channel.shutdown(socket.SHUT_WR)
    assert abandoned.wait(PATIENCE_SECONDS)
    (tmp_path / "gate").touch()
    server.channel.shutdown(socket.SHUT_RD)


@pytest.mark.parametrize("line", [b"{}\n", b"what?\n", b'{"type": "done"}\n', b'{"type": "exit", "when": "now"}\n'])
def test_a_server_that_is_not_understood_ends_the_process(server: Server, abandoned: Flag, line: bytes) -> None:
    server.channel.sendall(line)
    assert abandoned.wait(PATIENCE_SECONDS)


class Deaf(ToyRunner):
    """Hears of nothing, and tells on after its job."""

    reports: list[Report]

    def run(self, job: RunJob, report: Report, cancellation: Cancellation) -> Done:
        self.reports = [report]
        return Done(job=job.job, attempt=job.attempt, status="succeeded")


def test_what_is_told_after_the_end_of_a_job_is_not_said(tmp_path: Path, abandoned: Flag) -> None:
    runners: list[Deaf] = []

    def make(channel: socket.socket) -> Runner:
        runners.append(Deaf(channel))
        return runners[0]

    with worker_of(make, tmp_path, abandoned=abandoned) as server:
        server.ask("a")
        server.done()
        runners[0].reports[0].event(EventKind.WARNING, "late", message="too late")
        server.ask("b")
        assert isinstance(server.next(), Done)


def test_beats_come_before_the_worker_is_ready_and_tell_its_memory(tmp_path: Path, abandoned: Flag) -> None:
    warm = Flag()

    class Cold(ToyRunner):
        def warm_up(self) -> Ready:
            warm.wait(PATIENCE_SECONDS)
            return super().warm_up()

        def memory(self) -> Mapping[str, int]:
            return {"weights": 5}

    with worker_of(Cold, tmp_path, abandoned=abandoned) as server:
        for _ in range(3):
            beat = server.next(beats=True)
            assert isinstance(beat, Beat)
            assert beat.rss_bytes > 1 << 20
            assert beat.memory == {"weights": 5}
        warm.set()
        assert isinstance(server.next(), Ready)


def test_long_texts_and_large_previews_are_cut() -> None:
    said: list[Any] = []
    report = Report(RunJob(job="a", attempt=1, document="[]", output_dir="x"), said.append)
    report.event(EventKind.WARNING, "n", message="x" * (MAX_TEXT + 1), number=1)
    report.preview("n", b"x" * (MAX_PREVIEW_BYTES + 1))
    (event,) = said
    assert event.data == {"message": "x" * MAX_TEXT, "number": 1}


def test_whoever_waits_for_a_cancel_is_called_once_early_or_late() -> None:
    cancellation, calls = Cancellation(), list[str]()
    cancellation.call(lambda: calls.append("early"))
    cancellation.ask()
    cancellation.ask()
    cancellation.call(lambda: calls.append("late"))
    assert calls == ["early", "late"]
    assert cancellation.wait(0)

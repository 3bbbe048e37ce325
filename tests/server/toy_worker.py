"""A worker whose jobs do as they are told, good and bad: what a document lists is done in order. No torch, no engine.

As a program it is what a supervisor starts. A document is a JSON list of actions, each a list of a name and its values; every
action is a node. Jobs and tests meet through files: a job waits for one, and leaves marks in others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latentgraph.server.jobs.values import EventKind
from latentgraph.server.workers.messages import Done, Failure, NodeReport, Ready, RunJob
from latentgraph.server.workers.worker import Cancellation, Report, failed, serve_jobs

PATIENCE_SECONDS = 300.0
"""How long anything is waited for that a machine, however busy, will do."""

_LOOK_SECONDS = 0.01


class Stopped(Exception):
    """The job was cancelled."""


class Failed(Exception):
    """The job was told to fail."""

    def __init__(self, message: str, retry: bool) -> None:
        self.retry = retry
        super().__init__(message)


class ToyRunner:
    """Does what documents say. channel: for what no Runner could say. ready_once: is ready once this file is there."""

    def __init__(self, channel: socket.socket, ready_once: Path | None = None) -> None:
        self._channel, self._ready_once = channel, ready_once
        self._hoard: list[bytearray] = []

    def warm_up(self) -> Ready:
        while self._ready_once is not None and not self._ready_once.exists():
            Cancellation().wait(_LOOK_SECONDS)
        return Ready(device="toy", versions={"toy": "1"})

    def memory(self) -> Mapping[str, int]:
        return {"hoard": sum(map(len, self._hoard))}

    def close(self) -> None:
        pass

    def run(self, job: RunJob, report: Report, cancellation: Cancellation) -> Done:
        toy = ToyJob(job, report, cancellation, self._channel, self._hoard)
        nodes: dict[str, NodeReport] = {}
        end: dict[str, Any] = {"job": job.job, "attempt": job.attempt, "nodes": nodes}
        for name, *values in json.loads(job.document):
            report.event(EventKind.NODE_STARTED, name, "Toy")
            try:
                if cancellation.asked:
                    raise Stopped
                toy.do(name, values)
            except Stopped:
                return Done(status="cancelled", **end)
            except Failed as error:
                report.event(EventKind.NODE_FAILED, name, "Toy", message=str(error))
                return failed(job, Failure(code="toy", message=str(error), node=name, retry=error.retry))
            report.event(EventKind.NODE_FINISHED, name, "Toy", seconds=0.5)
            nodes[name] = NodeReport(status="ran", seconds=0.5)
        return Done(status="succeeded", files={n: tuple(f) for n, f in toy.files.items()}, values=toy.values, **end)


class ToyJob:
    """One job. Its actions are the methods whose names end in `_`."""

    def __init__(
        self,
        job: RunJob,
        report: Report,
        cancellation: Cancellation,
        channel: socket.socket,
        hoard: list[bytearray],
    ) -> None:
        self._job, self._report, self._cancellation = job, report, cancellation
        self._channel, self._hoard = channel, hoard
        self._folder = Path(job.output_dir)
        self.files: dict[str, list[str]] = {}
        self.values: dict[str, Any] = {}

    def do(self, name: str, values: list[Any]) -> None:
        action: Callable[..., None] = getattr(self, f"{name}_")
        action(*values)

    def steps_(self, total: int) -> None:
        """Tells steps; a cancel stops it between two."""
        for step in range(1, total + 1):
            self._report.event(EventKind.PROGRESS, "steps", "Toy", step=step, total=total, seconds_left=0.0)
            if self._cancellation.asked:
                raise Stopped

    def wait_(self, file: str) -> None:
        """Waits until a file is there, or a cancel comes."""
        while not Path(file).exists():
            if self._cancellation.wait(_LOOK_SECONDS):
                raise Stopped

    def pace_(self, seconds: float) -> None:
        """Takes some time, for tests that kill at random."""
        if self._cancellation.wait(seconds):
            raise Stopped

    def ignore_(self, file: str) -> None:
        """Waits until a file is there, whatever is asked."""
        while not Path(file).exists():
            Cancellation().wait(_LOOK_SECONDS)

    def step_until_(self, file: str) -> None:
        """Tells steps until a file is there."""
        step = 0
        while not Path(file).exists():
            if self._cancellation.wait(_LOOK_SECONDS):
                raise Stopped
            step += 1
            self._report.event(EventKind.PROGRESS, "step_until", "Toy", step=step, total=step)

    def mark_(self, file: str) -> None:
        """Adds a line to a file: the attempt, and whether files of another one were in the folder."""
        with Path(file).open("a") as log:
            log.write(f"{self._job.job} {self._job.attempt} {len(list(self._folder.iterdir()))}\n")

    def write_(self, output: str, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.files.setdefault(output, []).append(name)

    def name_(self, output: str, name: str) -> None:
        """Names an output without writing it."""
        self.files.setdefault(output, []).append(name)

    def link_(self, output: str, name: str, target: str) -> None:
        (self._folder / name).symlink_to(target)
        self.files.setdefault(output, []).append(name)

    def value_(self, output: str, value: Any) -> None:
        self.values[output] = value

    def large_(self, output: str, megabytes: int) -> None:
        self.values[output] = "x" * (megabytes << 20)

    def params_(self, output: str) -> None:
        self.values[output] = dict(self._job.params)

    def fail_(self, message: str, retry: bool = False) -> None:
        raise Failed(message, retry)

    def raise_(self, message: str) -> None:
        raise RuntimeError(message)

    def preview_(self, text: str) -> None:
        if self._job.previews:
            self._report.preview("preview", b"\xff\xd8\xff" + text.encode())

    def print_(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    def exit_(self, code: int) -> None:
        os._exit(code)

    def kill_(self, name: str = "SIGKILL") -> None:
        os.kill(os.getpid(), signal.Signals[name])
        signal.pause()  # the signal may come a moment later

    def kill_once_(self, file: str) -> None:
        """Dies if the file is not there, and leaves it."""
        if not Path(file).exists():
            Path(file).touch()
            self.kill_()

    def stop_(self) -> None:
        """Stands still as a whole: no beat, no answer."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def fill_(self, megabytes: int, file: str) -> None:
        """Takes memory, and keeps it until a file is there."""
        self._hoard.append(bytearray(b"\1" * (megabytes << 20)))
        self.ignore_(file)

    def say_(self, text: str) -> None:
        """Says what no Runner could."""
        self._channel.sendall(text.encode() + b"\n")

    def drone_(self, megabytes: int) -> None:
        """Says a line that has no end."""
        for _ in range(megabytes):
            self._channel.sendall(b"x" * (1 << 20))

    def hang_up_(self) -> None:
        """Closes the channel and lives on."""
        self._channel.shutdown(socket.SHUT_WR)
        self.stop_()

    def leave_(self, file: str) -> None:
        """Starts a process that outlives the job, and notes its number."""
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        Path(file).write_text(str(child.pid))


def main() -> None:
    """Runs the worker, or ends as its options say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--beat-seconds", type=float, default=0.1)
    parser.add_argument("--die-if", type=Path, help="ends before it is ready as long as this file is there")
    parser.add_argument("--mute", action="store_true", help="never says a word")
    parser.add_argument("--ready-once", type=Path, help="is not ready before this file is there")
    options = parser.parse_args()
    channel = socket.socket(fileno=options.channel_fd)
    if options.die_if is not None and options.die_if.exists():
        sys.exit("told to die young")
    if options.mute:
        signal.pause()
    serve_jobs(channel, ToyRunner(channel, options.ready_once), beat_seconds=options.beat_seconds)


if __name__ == "__main__":
    main()

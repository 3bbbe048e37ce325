"""kill -9 of `latentgraph serve` and of its workers at any moment, while a client submits and waits; at last a SIGTERM.

The processes are the real ones, and each job draws a small picture. What was accepted ends once, whatever died in between; what
was published never changes; the store is whole after each kill. A longer run is made by
`LATENTGRAPH_KILLS=200 pytest tests/cli/test_serve_kills.py`; it takes some seconds a kill, since a worker imports torch.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentgraph.server.api.job_views import JobView
from latentgraph.server.client import Client
from latentgraph.server.client.transport import Patience

from ..server.queue_fakes import check_clean

KILLS = int(os.environ.get("LATENTGRAPH_KILLS", "2"))
JOBS_A_KILL, JOBS_AHEAD = 6, 12
PATIENCE_SECONDS = 600.0
PATIENT = Patience(total=PATIENCE_SECONDS, first=PATIENCE_SECONDS)

DRAWING: dict[str, Any] = {
    "latentgraph": 1,
    "params": {"number": 0},
    "nodes": {
        "solid": {"type": "SolidMask", "value": 0.5, "width": 64, "height": 48},
        "picture": {"type": "ImageFromMask", "mask": "$solid"},
        "save": {"type": "SaveImage", "image": "$picture", "prefix": "picture_${params.number}"},
    },
    "outputs": {"image": "$picture"},
}


class Server:
    """`latentgraph serve` on one data folder and port, started again after each kill."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "latentgraph.cli", "serve", "--port", str(self.port)]
        self._command += ["--data", str(self.data), "--models", str(folder / "m"), "--cache-dir", str(folder / "c")]
        self._command += ["--device", "cpu"] * workers
        self.log = folder / "log"
        self.workers: set[int] = set()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith(b"latentgraph serves"), self.log.read_text()[-4000:]

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def end(self) -> None:
        """Ends it as it should be ended."""
        self.worker_pids()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 0
        self._reap()

    def _reap(self) -> None:
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def worker_pids(self) -> list[int]:
        """Returns its workers that live now."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for listed in children for pid in listed.read_text().split()]
        self.workers |= set(pids)
        return pids


@dataclass
class Load:
    """A client that submits and waits. accepted: ids by number. ended: as the server told; published: what its files were."""

    client: Client
    data: Path
    accepted: dict[int, str] = field(default_factory=dict)
    ended: dict[str, JobView] = field(default_factory=dict)
    published: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    allowed: int = JOBS_AHEAD
    stopped: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)

    def submit(self) -> None:
        """Submits until it is stopped, a little ahead of what has ended."""
        number = 0
        while not self.stopped.is_set():
            if number >= self.allowed or number >= len(self.ended) + JOBS_AHEAD:
                self.stopped.wait(0.02)
                continue
            job = self.client.submit(DRAWING, {"number": number}, key=f"job {number}", max_attempts=10)
            self.accepted[number] = job.id
            number += 1

    def wait(self) -> None:
        """Waits for each job's end and looks at its picture."""
        number = 0
        while not (self.stopped.is_set() and number >= len(self.accepted)):
            if number not in self.accepted:
                self.stopped.wait(0.02)
                continue
            job = self.client.wait(self.accepted[number], PATIENCE_SECONDS)
            assert job.ended, f"job {number} is still {job.state}"
            if job.state == "succeeded":
                self.published[job.id] = self.picture(job)
            self.ended[job.id] = job
            number += 1

    def picture(self, job: JobView) -> tuple[int, int, str]:
        """Returns what tells one writing of a job's picture from another, after a look at its bytes."""
        (told,) = job.outputs["image"]
        path = self.data / "outputs" / job.id / told.name
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.stat().st_size, digest) == (told.size, told.sha256)
        assert told.name.startswith(f"picture_{job.params['number']}_")
        return path.stat().st_ino, path.stat().st_mtime_ns, digest

    @contextmanager
    def running(self) -> Iterator[None]:
        def guarded(work: Any) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                self.errors.append(error)

        threads = [threading.Thread(target=guarded, args=(work,)) for work in (self.submit, self.wait)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join(2 * PATIENCE_SECONDS)

    def check(self) -> None:
        if self.errors:
            raise self.errors[0]

    def until_more_ended(self) -> None:
        """Waits until one more job has ended."""
        before, until = len(self.ended), time.monotonic() + PATIENCE_SECONDS
        while len(self.ended) == before:
            self.check()
            assert time.monotonic() < until, "no job ends any more"
            time.sleep(0.01)


def kill_at_random(server: Server, load: Load, chance: random.Random, copies: Path) -> Counter[str]:
    """Kills the server or a worker, again and again: in the middle of jobs, and in the middle of starts."""
    killed: Counter[str] = Counter()
    for number in range(KILLS):
        if number == 0 or chance.random() < 0.7:
            load.until_more_ended()
            time.sleep(chance.uniform(0.0, 0.2))
        else:
            time.sleep(chance.uniform(0.0, 2.0))
        load.check()
        pids = server.worker_pids()
        if pids and (number == 0 or (number > 1 and chance.random() < 0.5)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                killed["worker"] += 1
        else:
            server.kill()
            killed["server"] += 1
            check_copy(server.data, copies)
            server.start()
        load.allowed += JOBS_A_KILL
    return killed


def check_copy(data: Path, copies: Path) -> None:
    """What a killed server left opens clean; a copy is opened, so that the next server finds what it would have found."""
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for file in data.glob("jobs.sqlite3*"):
        shutil.copy(file, copies)
    check_clean(copies)


def test_what_a_server_accepted_ends_once_though_it_and_its_workers_are_killed(tmp_path: Path) -> None:
    seed = random.randrange(10**6) if KILLS > 2 else 1
    server = Server(tmp_path, workers=1 if KILLS <= 2 else 2)
    load = Load(Client(f"http://127.0.0.1:{server.port}", patience=PATIENT), server.data)
    server.start()
    try:
        with load.running():
            killed = kill_at_random(server, load, random.Random(seed), tmp_path / "copies")
            if KILLS > 2:  # or it ends while its worker begins, which is as good and sooner done
                load.until_more_ended()
            server.end()  # in the middle of it all
            server.start()
            load.until_more_ended()
        load.check()
        server.end()
    finally:
        server.kill()
        load.client.close()
    print(f"seed {seed}: {dict(killed)} killed; {len(load.accepted)} jobs: {states_of(load)}")  # noqa: T201 - asked for by -s
    assert killed.total() == KILLS
    assert set(load.ended) == set(load.accepted.values())
    check_jobs(load, server.data, f"seed {seed}")
    assert not [pid for pid in server.workers if is_worker(pid)], "a worker is left"


def states_of(load: Load) -> dict[str, int]:
    return dict(Counter(job.state.value for job in load.ended.values()))


def check_jobs(load: Load, data: Path, name: str) -> None:
    """Every accepted job is there once and ended once; what it published is what it was when it was first seen."""
    check_clean(data)
    with sqlite3.connect(data / "jobs.sqlite3") as store:
        rows = store.execute("SELECT idempotency_key, id, state, losses, number FROM jobs").fetchall()
        finished = Counter(job for (job,) in store.execute("SELECT job FROM events WHERE kind = 'finished'").fetchall())
    assert {(key, id) for key, id, *_ in rows} == {(f"job {number}", id) for number, id in load.accepted.items()}, name
    for _, id, state, losses, number in rows:
        assert finished[number] == 1, name
        if state == "succeeded":
            assert load.picture(load.ended[id]) == load.published[id], name
        else:
            assert (state, losses) == ("quarantined", 2), name
    succeeded = {id for _, id, state, *_ in rows if state == "succeeded"}
    assert {path.name for path in (data / "outputs").iterdir()} == succeeded, name
    assert list((data / "attempts").iterdir()) == [], name


def is_worker(pid: int) -> bool:
    try:
        return b"latentgraph.cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

"""Worker processes: how they are started, watched and ended, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.errors import WorkerGone
from latentgraph.server.jobs.values import EventKind
from latentgraph.server.workers.messages import CancelJob, Done, EventTold, FromWorker, RunJob
from latentgraph.server.workers.process import LOG_LINE_CHARACTERS, LOG_LINES, WorkerLimits, WorkerProcess, WorkerSlot

from .toy_worker import PATIENCE_SECONDS

TOY = (sys.executable, str(Path(__file__).with_name("toy_worker.py")))
SLOT = WorkerSlot("toy-0", "cpu")
PATIENT = WorkerLimits(
    warm_up_silence_seconds=PATIENCE_SECONDS,
    warm_up_seconds=PATIENCE_SECONDS,
    heartbeat_timeout_seconds=PATIENCE_SECONDS,
    exit_seconds=PATIENCE_SECONDS,
)
Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts toy workers, waits until they are ready, and ends them after the test."""
    started: list[WorkerProcess] = []

    async def start(*options: str, ready: bool = True, **limits: Any) -> WorkerProcess:
        process = await WorkerProcess.start(SLOT, [*TOY, *options], dataclasses.replace(PATIENT, **limits))
        started.append(process)
        while ready and process.facts is None:
            await process.receive(PATIENCE_SECONDS)
        return process

    yield start
    for process in started:
        await process.end("the test is over")


async def run(process: WorkerProcess, folder: Path, *actions: list[Any]) -> None:
    await process.send(RunJob(job="a", attempt=1, document=json.dumps(actions), output_dir=str(folder)))


async def said_until_gone(process: WorkerProcess) -> list[FromWorker]:
    """Returns all that a worker says from now on; it ends by itself, or is killed by its limits."""
    said: list[FromWorker] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(WorkerGone):
            while True:
                said += await process.receive(PATIENCE_SECONDS)
    return said


async def until(process: WorkerProcess, kind: type[FromWorker]) -> FromWorker:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for message in await process.receive(PATIENCE_SECONDS):
                if isinstance(message, kind):
                    return message


def lives(pid: int) -> bool:
    """Returns whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_worker_tells_what_it_is_and_ends_when_told_to(start: Start) -> None:
    process = await start()
    assert (process.facts.device, process.facts.versions) == ("toy", {"toy": "1"})
    assert process.beat.rss_bytes > 1 << 20
    assert process.how_it_ended == ""
    await process.end()
    assert process.how_it_ended == "it ended with exit code 0"
    with pytest.raises(WorkerGone, match="exit code 0"):
        await process.receive(0)
    await process.end()  # once more is no harm


async def test_a_worker_runs_jobs_and_can_be_told_to_stop_one(start: Start, tmp_path: Path) -> None:
    process = await start()
    await run(process, tmp_path, ["steps", 3])
    done = await until(process, Done)
    assert (done.status, list(done.nodes)) == ("succeeded", ["steps"])
    await run(process, tmp_path, ["wait", str(tmp_path / "gate")])
    await until(process, EventTold)
    await process.send(CancelJob(job="a", attempt=1))
    assert (await until(process, Done)).status == "cancelled"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (["exit", 3], "it ended with exit code 3"),
        (["exit", 0], "it ended with exit code 0"),
        (["kill", "SIGKILL"], r"it was ended by signal 9 \(SIGKILL\)"),
        (["kill", "SIGSEGV"], r"it was ended by signal 11 \(SIGSEGV\)"),
    ],
)
async def test_how_a_worker_died_is_told_after_what_it_said(
    start: Start, tmp_path: Path, action: list[Any], words: str
) -> None:
    process = await start()
    await run(process, tmp_path, ["steps", 50], action)
    said = await said_until_gone(process)
    assert [message.kind for message in said].count(EventKind.PROGRESS) == 50
    with pytest.raises(WorkerGone, match=words):
        await process.receive(0)


@pytest.mark.parametrize(
    ("actions", "limits", "words"),
    [
        ([["stop"]], {"heartbeat_timeout_seconds": 1.0}, "no sign of life for 1 s"),
        ([["say", "what?"]], {}, "'what\\?' is no message"),
        ([["say", '{"type": "beat", "pulse": 60}']], {}, "pulse: Extra inputs"),
        ([["fill", 300, "gate"]], {"memory_bytes": 250 << 20}, "MiB of memory, and may use 250"),
        ([["hang_up"]], {"exit_seconds": 0.2}, "it closed its channel"),
    ],
    ids=["stands still", "says nonsense", "says too much", "takes memory", "hangs up"],
)
async def test_a_worker_that_does_what_it_may_not_is_killed(
    start: Start, tmp_path: Path, actions: list[list[Any]], limits: dict[str, Any], words: str
) -> None:
    process = await start(**limits)
    await run(process, tmp_path, *actions)
    await said_until_gone(process)
    with pytest.raises(WorkerGone, match=f"{words}.*; it was killed"):
        await process.receive(0)
    assert not lives(process.pid)


async def test_a_worker_that_says_a_line_without_end_is_killed(start: Start, tmp_path: Path) -> None:
    process = await start("--beat-seconds", "1000")  # or a beat would end it
    await run(process, tmp_path, ["drone", 40])
    await said_until_gone(process)
    with pytest.raises(WorkerGone, match="a line has more than 33,554,432 bytes; it was killed"):
        await process.receive(0)


@pytest.mark.parametrize(
    ("options", "limits", "words"),
    [
        (["--mute"], {"warm_up_silence_seconds": 0.5}, "no sign of life for 0.5 s"),
        (["--mute"], {"warm_up_seconds": 0.5}, "not ready within 0.5 s"),
        (["--die-if", "/"], {}, "exit code 1"),
    ],
)
async def test_a_worker_that_never_gets_ready_is_given_up(
    start: Start, options: list[str], limits: dict[str, Any], words: str
) -> None:
    process = await start(*options, ready=False, **limits)
    assert await said_until_gone(process) == []
    assert process.facts is None
    with pytest.raises(WorkerGone, match=words):
        await process.receive(0)


async def test_the_heartbeat_is_expected_once_a_worker_is_ready(start: Start, tmp_path: Path) -> None:
    """Until then imports may hold up the thread that beats."""
    gate = tmp_path / "gate"
    silent = ("--beat-seconds", "1000", "--ready-once", str(gate))
    process = await start(*silent, ready=False, heartbeat_timeout_seconds=0.2)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while process.beat.rss_bytes == 0:
            await process.receive(0.01)
    await process.receive(1.0)
    assert not process.gone.is_set()
    gate.touch()
    assert await said_until_gone(process) == []
    assert process.facts is not None
    with pytest.raises(WorkerGone, match=r"no sign of life for 0\.2 s"):
        await process.receive(0)


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await WorkerProcess.start(SLOT, ["/no/such/program"], PATIENT)


async def test_what_a_worker_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    """Whether the worker is killed, or dies by itself."""
    for number, last in enumerate((["ignore", "gate"], ["kill"])):
        process = await start()
        noted = tmp_path / f"pid-{number}"
        await run(process, tmp_path, ["leave", str(noted)], ["steps", 1], last)
        while not noted.exists():
            await process.receive(0.05)
        if last == ["kill"]:
            await said_until_gone(process)
        await process.end("it is not needed any more")
        child = int(noted.read_text())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while lives(child):  # killed, and on its way
                await asyncio.sleep(0.01)


async def test_a_worker_that_does_not_end_when_told_to_is_killed(start: Start, tmp_path: Path) -> None:
    process = await start(exit_seconds=0.2)
    await run(process, tmp_path, ["step_until", str(tmp_path / "gate")])
    await until(process, EventTold)
    await process.end()
    assert process.how_it_ended == "it did not end when told to; it was killed"


async def test_a_worker_that_nobody_listens_to_waits_and_is_not_blamed(start: Start, tmp_path: Path) -> None:
    process = await start(heartbeat_timeout_seconds=2.0)
    await run(process, tmp_path, ["steps", 20_000])
    await asyncio.sleep(5.0)  # more than twice what it may be silent
    assert not process.gone.is_set()
    steps = 0
    while steps < 20_000:
        batch = await process.receive(PATIENCE_SECONDS)
        steps += sum(message.kind is EventKind.PROGRESS for message in batch if isinstance(message, EventTold))
        assert len(batch) <= 2_000
    assert not process.gone.is_set()


async def test_what_a_worker_writes_is_logged_and_its_end_is_kept(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="latentgraph.server.workers.process")
    process = await start()
    lines = [f"line {number}" for number in range(100)]
    await run(process, tmp_path, ["print", "\n".join(lines) + "\n" + "x" * 100_000 + "\n\xe9 no end"], ["exit", 1])
    await said_until_gone(process)
    assert process.log_tail == (*lines[-LOG_LINES + 2 :], "x" * LOG_LINE_CHARACTERS, "é no end")
    assert [record.message for record in caplog.records][:100] == [f"worker toy-0: {line}" for line in lines]


async def test_a_wait_for_a_worker_can_be_ended(start: Start) -> None:
    process = await start()
    process.wake()
    assert await process.receive(PATIENCE_SECONDS) == []


async def test_no_open_file_is_left_of_a_worker(start: Start) -> None:
    async def once() -> int:
        process = await start()
        await process.end()
        return len(list(Path("/proc/self/fd").iterdir()))

    assert len({await once(), await once(), await once()}) == 1

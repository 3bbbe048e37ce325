"""The supervisor with real worker processes that do what no worker should: every job is settled, every slot gets a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.clock import SECOND_US, time_us
from latentgraph.server.jobs.states import JobState
from latentgraph.server.workers.process import WorkerSlot
from latentgraph.server.workers.supervisor import WorkerView

from .queue_fakes import kinds
from .toy_bench import TOY, Bench, bench


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with one worker."""
    async with bench(tmp_path) as made:
        yield made


def idle(views: Sequence[WorkerView]) -> bool:
    return all(view.state == "idle" for view in views)


def marks(bench: Bench, name: str = "marks") -> list[list[str]]:
    """Returns for each time that a job was run: the job, the attempt, and what lay in its folder."""
    return [line.split() for line in Path(bench.path(name)).read_text().splitlines()]


async def test_jobs_run_on_all_workers_at_a_time(tmp_path: Path) -> None:
    async with bench(tmp_path, slots=2) as two:
        jobs = [await two.submit(["wait", two.path("gate")], ["value", "n", n]) for n in range(3)]
        views = await two.until(lambda views: all(view.state == "busy" for view in views))
        assert {view.job for view in views} <= set(jobs)
        assert [(view.name, view.device, view.versions, view.starts) for view in views] == [
            ("toy-0", "toy", {"toy": "1"}, 1),
            ("toy-1", "toy", {"toy": "1"}, 1),
        ]
        assert two.supervisor.ready
        two.open("gate")
        ended = [await two.ended(id) for id in jobs]
        assert [job.state for job in ended] == [JobState.SUCCEEDED] * 3
        assert [job.outcome and job.outcome.values for job in ended] == [{"n": 0}, {"n": 1}, {"n": 2}]
        await two.until(idle)


async def test_what_a_job_writes_becomes_its_outputs(one: Bench) -> None:
    job = await one.ended(
        await one.submit(["write", "text", "a/b.txt", "meow"], ["params", "given"], params={"seed": 7})
    )
    assert job.outcome is not None
    assert [file.name for file in job.outcome.files["text"]] == ["a/b.txt"]
    assert job.outcome.values == {"given": {"seed": 7}}
    assert (one.store.outputs / job.id / "a" / "b.txt").read_text() == "meow"
    assert list(one.store.attempts.iterdir()) == []


async def test_a_job_whose_worker_is_killed_runs_again_on_the_next_one(one: Bench) -> None:
    id = await one.submit(
        ["mark", one.path("marks")], ["write", "text", "a.txt", "meow"], ["kill_once", one.path("killed")]
    )
    job = await one.ended(id)
    assert (job.state, job.attempt, job.losses) == (JobState.SUCCEEDED, 2, 1)
    assert marks(one) == [[id, "1", "0"], [id, "2", "0"]]  # the second finds nothing of the first
    (view,) = await one.until(idle)
    assert (view.starts, "SIGKILL" in view.last_end) == (2, True)
    assert kinds(await one.store.events(id)).count("started") == 2


async def test_a_job_that_kills_two_workers_is_quarantined_with_what_is_known(one: Bench) -> None:
    id = await one.submit(["steps", 2], ["print", "about to crash\n"], ["kill", "SIGSEGV"], max_attempts=10)
    after = await one.submit(["value", "n", 1])
    job = await one.ended(id)
    assert (job.state, job.losses) == (JobState.QUARANTINED, 2)
    assert job.error is not None
    for known in ("SIGSEGV", "node 'kill'", "worker toy-0", "about to crash"):
        assert known in job.error.message
    assert (await one.ended(after)).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("actions", "limits", "words"),
    [
        ([["stop"]], {"heartbeat_timeout_seconds": 3.0}, "no sign of life"),
        ([["ignore", "/nowhere"]], {"node_timeout_seconds": 0.5}, "node 'ignore' told nothing"),
        ([["fill", 300, "/nowhere"]], {"memory_bytes": 250 << 20}, "MiB of memory"),
        ([["say", "nonsense"]], {}, "is no message"),
        ([["exit", 3]], {}, "exit code 3"),
    ],
    ids=["stands still", "works for ever", "takes memory", "says nonsense", "ends"],
)
async def test_a_worker_that_is_lost_costs_its_job_one_attempt_and_others_none(
    tmp_path: Path, actions: list[list[Any]], limits: dict[str, Any], words: str
) -> None:
    async with bench(tmp_path, **limits) as one:
        job = await one.ended(await one.submit(*actions, max_attempts=1))
        assert (job.state, job.spent, job.losses) == (JobState.FAILED, 1, 1)
        assert job.error is not None
        assert job.error.code == "worker_lost"
        assert words in job.error.message
        assert (await one.ended(await one.submit(["steps", 1]))).state is JobState.SUCCEEDED


async def test_an_idle_worker_that_dies_is_replaced(one: Bench) -> None:
    (view,) = await one.until(idle)
    assert view.pid is not None
    os.kill(view.pid, signal.SIGKILL)
    (again,) = await one.until(lambda views: views[0].starts == 2 and idle(views))
    assert again.pid != view.pid
    assert (await one.ended(await one.submit(["steps", 1]))).state is JobState.SUCCEEDED


async def test_a_worker_that_dies_young_is_started_again_until_it_lives(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    async with bench(tmp_path, "--die-if", str(broken)) as one:
        id = await one.submit(["value", "n", 1])
        (view,) = await one.until(lambda views: views[0].starts == 4)
        assert not one.supervisor.ready
        assert view.last_end == "it ended with exit code 1"
        broken.unlink()
        job = await one.ended(id)
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_a_program_that_can_not_be_started_is_tried_again(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = [TOY, ["/no/such/program"]]

    def start_worker(slot: WorkerSlot) -> Sequence[str]:
        if len(commands) == 0:
            raise RuntimeError("there is no command")
        return commands.pop()

    async with bench(tmp_path, start_worker=start_worker) as one:
        assert (await one.ended(await one.submit(["steps", 1]))).state is JobState.SUCCEEDED
        (view,) = await one.until(idle)
        os.kill(view.pid or 0, signal.SIGKILL)
        await one.until(lambda views: views[0].state == "down")
        commands.append(TOY)
        assert (await one.ended(await one.submit(["steps", 1]))).state is JobState.SUCCEEDED


async def test_a_running_job_is_cancelled_within_a_step_and_the_next_one_is_not_hit(one: Bench) -> None:
    first = await one.submit(["step_until", one.path("gate")])
    second = await one.submit(["steps", 3])
    await one.event(first, "progress", "step_until")
    for _ in range(5):
        await one.store.cancel(first)
    assert (await one.ended(first)).state is JobState.CANCELLED
    await one.store.cancel(first)
    assert (await one.ended(second)).state is JobState.SUCCEEDED
    (view,) = await one.until(idle)
    assert view.starts == 1


async def test_a_job_that_does_not_stop_for_a_cancel_is_stopped_with_its_worker(tmp_path: Path) -> None:
    async with bench(tmp_path, cancel_grace_seconds=0.3) as one:
        first = await one.submit(["ignore", one.path("gate")])
        second = await one.submit(["steps", 1])
        await one.event(first, "node_started", "ignore")
        await one.store.cancel(first)
        job = await one.ended(first)
        assert (job.state, job.losses) == (JobState.CANCELLED, 0)
        assert (await one.ended(second)).state is JobState.SUCCEEDED
        (view,) = await one.until(idle)
        assert view.starts == 2


async def test_a_job_runs_no_longer_than_its_deadline(one: Bench) -> None:
    await one.until(idle)
    id = await one.submit(["wait", one.path("gate")], deadline_us=time_us() + SECOND_US)
    job = await one.ended(id)
    assert (job.state, job.error and job.error.code) == (JobState.FAILED, "deadline")


async def test_what_may_go_well_another_time_runs_again_and_other_failures_do_not(one: Bench) -> None:
    again = await one.submit(["mark", one.path("again")], ["fail", "busy", True])
    once = await one.submit(["mark", one.path("once")], ["fail", "wrong"])
    assert (await one.ended(again)).state is JobState.FAILED
    assert (await one.ended(once)).state is JobState.FAILED
    assert (len(marks(one, "again")), len(marks(one, "once"))) == (3, 1)


async def test_nothing_is_claimed_while_the_queue_is_paused(one: Bench) -> None:
    await one.until(idle)
    await one.store.pause()
    early = await one.submit(["mark", one.path("marks")])
    urgent = await one.submit(["mark", one.path("marks")], priority=1)
    await one.store.resume()
    await one.ended(early)
    assert [job for job, *_ in marks(one)] == [urgent, early]


async def test_a_drain_lets_running_jobs_end_and_claims_no_other(one: Bench) -> None:
    running = await one.submit(["wait", one.path("gate")], ["value", "n", 1])
    waiting = await one.submit(["steps", 1])
    await one.event(running, "node_started", "wait")
    drain = asyncio.create_task(one.supervisor.drain())
    await asyncio.sleep(0)
    one.open("gate")
    await drain
    assert (await one.store.get(running)).state is JobState.SUCCEEDED
    assert (await one.store.get(waiting)).state is JobState.QUEUED
    assert [view.state for view in one.supervisor.workers] == ["down"]
    await one.supervisor.drain()  # once more is no harm


async def test_a_job_that_outlasts_the_drain_is_put_back_and_runs_with_the_next_server(tmp_path: Path) -> None:
    async with bench(tmp_path) as one:
        id = await one.submit(["mark", one.path("marks")], ["wait", one.path("gate")])
        await one.event(id, "node_started", "wait")
        await one.supervisor.drain(0.1)
        job = await one.store.get(id)
        assert (job.state, job.spent, job.losses) == (JobState.QUEUED, 0, 0)
        one.open("gate")
    async with bench(tmp_path) as one:
        job = await one.ended(id)
        assert (job.state, job.spent, job.losses) == (JobState.SUCCEEDED, 0, 0)
        assert marks(one) == [[id, "1", "0"], [id, "2", "0"]]


async def test_a_drain_waits_for_no_worker_that_is_not_ready(tmp_path: Path) -> None:
    async with bench(tmp_path, "--mute") as one:
        await one.until(lambda views: views[0].state == "starting")
        await one.supervisor.drain()
        (view,) = one.supervisor.workers
        assert view.last_end == "the server drained before it was ready; it was killed"


async def test_a_server_that_ends_without_a_word_takes_its_workers_along(tmp_path: Path) -> None:
    """Nobody tells them to end: the channel closes with the process that held it."""
    script = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from latentgraph.server.workers.process import WorkerLimits, WorkerProcess, WorkerSlot

async def main():
    process = await WorkerProcess.start(WorkerSlot("toy-0"), {list(TOY)!r}, WorkerLimits())
    while process.facts is None:
        await process.receive(60)
    sys.stdout.write(f"{{process.pid}}\\n")
    sys.stdout.flush()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(TOY[0], "-c", script, stdout=asyncio.subprocess.PIPE)
    told, _ = await server.communicate()
    async with asyncio.timeout(60):
        while Path(f"/proc/{int(told)}").exists():
            await asyncio.sleep(0.02)

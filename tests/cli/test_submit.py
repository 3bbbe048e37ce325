"""The command `submit` as a shell sees it, with a server in a thread of the test, whose workers the test plays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from latentgraph.cli.main import app
from latentgraph.cli.remote import as_event, why_again
from latentgraph.cli.show import RunBars
from latentgraph.graph import NodeErred, NodeProgress, NodeReused, NodeWarned, RunStarted
from latentgraph.server.api.job_views import EventView
from latentgraph.server.client import Client
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.values import EventKind, Job, JobError, JobEvent, NodeOutcome, Outcome

from ..server.live_fakes import Live, free_port, output_file
from ..server.web_fakes import PICTURE_YAML, YAML, png

T = TypeVar("T")
Play = Callable[[Live, Job], Awaitable[None]]


class Service:
    """A server in a thread of its own. `play` is what its worker does with each job."""

    def __init__(self, folder: Path) -> None:
        self.live = Live(folder)
        self.play: Play = succeed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(self.live.start())
        self._worker = asyncio.run_coroutine_threadsafe(self._work(), self._loop)

    def do(self, work: Any) -> Any:
        """Returns what a coroutine gives on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._worker.cancel()
        self.do(self.live.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def jobs(self) -> list[Job]:
        return list(self.do(self.live.store.list(owner=None)).items)

    async def _work(self) -> None:
        while True:
            changed = self.live.store.changed
            seen = changed.count
            job = await self.live.store.claim("w0")
            if job is None:
                await changed.after(seen)
            else:
                await self.play(self.live, job)


async def tell(live: Live, job: Job, *events: tuple[EventKind, dict[str, Any]]) -> None:
    told = [JobEvent(kind, {"node": "one", "node_type": "Constant", **data}) for kind, data in events]
    await live.store.append_events(job.id, job.attempt, told)


async def succeed(live: Live, job: Job) -> None:
    """Gives a picture and a number."""
    await tell(live, job, (EventKind.NODE_STARTED, {}), (EventKind.WARNING, {"message": "it is [red]odd[/]"}))
    await tell(live, job, (EventKind.PROGRESS, {"step": 1, "total": 2}), (EventKind.NODE_FINISHED, {"seconds": 0.5}))
    folder = live.store.outputs / job.id
    folder.mkdir()
    (folder / "image_00001_.png").write_bytes(png())
    nodes = {"one": NodeOutcome("ran", "", 0.5), "two": NodeOutcome("cached", "disk", 0.25)}
    outcome = Outcome({"image": (output_file("image_00001_.png", png()),)}, {"number": 1.5}, nodes, 0.75)
    await live.store.succeed(job.id, job.attempt, outcome)


async def fail(live: Live, job: Job) -> None:
    error = JobError("node_failed", "node 'one' (Constant) failed: [red]no[/]", "one", "Constant", "Traceback: deep")
    await live.store.fail(job.id, job.attempt, error, retry=False)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in ("LATENTGRAPH_TOKEN", "LATENTGRAPH_SERVER"):
        monkeypatch.delenv(name, raising=False)
    made = Service(tmp_path / "service")
    yield made
    made.close()


@pytest.fixture
def numbers(here: Path) -> Path:
    path = here / "numbers.yaml"
    path.write_text(YAML, encoding="utf-8")
    return path


def call(service: Service, *words: object) -> Result:
    return CliRunner().invoke(app, ["submit", "--server", service.live.url, *map(str, words)])


def called_json(service: Service, *words: object, code: int = 0) -> Any:
    result = call(service, *words, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def test_submit_prints_the_files_alone_and_tells_the_rest_on_standard_error(
    service: Service, numbers: Path, here: Path
) -> None:
    result = call(service, numbers, "--set", "words=x", "--set", "value=2", "--priority", "5")
    assert result.exit_code == 0, result.stderr
    path = here / "output" / "image_00001_.png"
    assert result.stdout == f"{path}\n"
    assert path.read_bytes() == png()
    told = result.stderr.splitlines()
    assert told[0] == "warning: node 'one': it is [red]odd[/]"
    assert [line.split()[:2] for line in told[1:4]] == [["node", "from"], ["one", "ran"], ["two", "cached"]]
    assert told[4] == "succeeded in 0.75 s"
    (job,) = service.jobs()
    assert (job.params, job.priority) == ({"words": "x", "value": 2.0}, 5)


def test_submit_json_is_one_object_like_that_of_run(service: Service, numbers: Path, here: Path) -> None:
    told = called_json(service, numbers, "--set", "words=x", "--output", "made")
    assert told == {
        "job": service.jobs()[0].id,
        "status": "succeeded",
        "seconds": 0.75,
        "outputs": {
            "image": {"files": [str(here / "made" / "image_00001_.png")]},
            "number": {"files": [], "value": 1.5},
        },
        "nodes": {
            "one": {"status": "ran", "tier": None, "seconds": 0.5},
            "two": {"status": "cached", "tier": "disk", "seconds": 0.25},
        },
        "failures": {},
        "error": None,
    }


def test_without_waiting_the_id_is_printed_and_the_job_left_to_the_server(service: Service, numbers: Path) -> None:
    service.do(service.live.store.pause())
    result = call(service, numbers, "--set", "words=x", "--no-wait")
    assert (result.exit_code, result.stderr) == (0, "")
    told = called_json(service, numbers, "--set", "words=x", "--no-wait")
    second, first = service.jobs()
    assert result.stdout == f"{first.id}\n"
    assert told == {"job": second.id, "status": "queued", "url": f"{service.live.url}/v1/jobs/{second.id}"}


def test_a_job_that_fails_ends_with_1_and_is_told_exactly(service: Service, numbers: Path) -> None:
    service.play = fail
    result = call(service, numbers, "--set", "words=x")
    assert (result.exit_code, result.stdout) == (1, "")
    (job,) = service.jobs()
    assert result.stderr == f"error: job {job.id}: node 'one' (Constant) failed: [red]no[/]\n"
    told = called_json(service, numbers, "--set", "words=x", code=1)
    assert told["status"] == "failed"
    assert told["failures"] == {"one": "node 'one' (Constant) failed: [red]no[/]"}


def test_a_job_that_fails_shows_its_trace_to_who_asks(
    service: Service, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.play = fail
    monkeypatch.setenv("LATENTGRAPH_TRACEBACK", "1")
    assert "Traceback: deep" in call(service, numbers, "--set", "words=x").stderr


def test_a_job_that_somebody_cancels_ends_with_130(service: Service, numbers: Path) -> None:
    async def cancel(live: Live, job: Job) -> None:
        await live.store.cancel(job.id)
        await live.store.cancelled(job.id, job.attempt)

    service.play = cancel
    assert called_json(service, numbers, "--set", "words=x", code=130)["status"] == "cancelled"


def test_a_workflow_with_errors_ends_with_2_and_is_told_with_places(service: Service, here: Path) -> None:
    path = here / "wrong.yaml"
    path.write_text("latentgraph: 1\nnodes:\n  one: {type: Constnt}\noutputs: {a: $one}\n")
    result = call(service, path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{path}:3:15: error: ")
    told = called_json(service, path, code=2)
    assert (told["valid"], told["problems"][0]["code"], told["problems"][0]["line"]) == (False, "unknown-type", 3)


def test_a_parameter_that_is_missing_is_told_with_how_to_give_it(service: Service, numbers: Path) -> None:
    result = call(service, numbers)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1:] == ["Give what is missing: --set words=VALUE"]


@pytest.mark.parametrize("words", [("--set", "words"), ("--set", "wrods=x"), ("none.yaml",)])
def test_what_is_wrong_here_is_told_before_anything_is_sent(
    service: Service, numbers: Path, words: tuple[str, ...]
) -> None:
    result = call(service, *(words if len(words) == 1 else (numbers, *words)))
    assert result.exit_code == 2
    assert service.jobs() == []


def test_a_folder_that_can_not_be_written_is_told_before_anything_is_sent(
    service: Service, numbers: Path, here: Path
) -> None:
    (here / "made").write_text("a file")
    result = call(service, numbers, "--set", "words=x", "--output", "made")
    assert result.exit_code == 2
    assert "name another one with --output" in result.stderr
    assert service.jobs() == []


def test_pictures_beside_the_workflow_are_sent_along(service: Service, here: Path) -> None:
    (here / "look.yaml").write_text(PICTURE_YAML)
    (here / "cat.png").write_bytes(png())
    assert call(service, "look.yaml", "--set", "picture=cat.png").exit_code == 0
    assert service.jobs()[0].params["picture"].startswith("sha256:")


def test_workflows_of_the_package_go_by_their_names_and_bring_their_pictures(service: Service) -> None:
    result = call(service, "img2img")
    assert result.exit_code == 2
    assert "there is no such node type" in result.stderr, "of the toys that this server has"
    assert "img2img.yaml:" in result.stderr


def test_a_token_comes_from_a_file_or_from_the_environment(
    service: Service, numbers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.do(service.live.new_token("submit"))
    (here / "token").write_text(f"{token}\n")
    (here / "empty").write_text("")
    words = (numbers, "--set", "words=x", "--no-wait")
    refused = call(service, *words)
    assert (refused.exit_code, refused.stderr.count("A token is needed")) == (2, 1)
    assert refused.stderr.endswith("Give it in LATENTGRAPH_TOKEN, or in a file with --token-file.\n")
    assert call(service, *words, "--token-file", "token").exit_code == 0
    for wrong, reason in (("empty", "holds 0 words"), ("none", "can't be read: No such file")):
        result = call(service, *words, "--token-file", wrong)
        assert (result.exit_code, reason in result.stderr) == (2, True)
    monkeypatch.setenv("LATENTGRAPH_TOKEN", token)
    assert call(service, *words).exit_code == 0


def test_a_server_that_is_not_there_ends_with_3_and_what_to_check(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("LATENTGRAPH_SERVER", url)
    result = CliRunner().invoke(app, ["submit", str(numbers), "--set", "words=x", "--json"])
    assert result.exit_code == 3
    assert f"error: {url} can't be reached: nothing listens there; check that the server runs" in result.stderr
    assert json.loads(result.stdout)["error"].startswith(url)


def test_an_interruption_asks_the_server_to_cancel_and_ends_with_130(service: Service, numbers: Path) -> None:
    """A real one: Ctrl-C in a shell, while the job runs."""
    followed = threading.Event()

    async def run_on(live: Live, job: Job) -> None:
        await tell(live, job, (EventKind.NODE_STARTED, {}))
        while not live.streams:
            await asyncio.sleep(0.01)
        followed.set()
        while not (await live.store.get(job.id)).cancel_requested:
            await live.store.changed.after(live.store.changed.count, 0.05)
        await live.store.cancelled(job.id, job.attempt)

    service.play = run_on
    command = [sys.executable, "-m", "latentgraph.cli", "submit", str(numbers), "--set", "words=x", "--json"]
    environment = {**os.environ, "LATENTGRAPH_SERVER": service.live.url}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert followed.wait(300)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    (job,) = service.jobs()
    assert process.returncode == 130, stderr
    assert stderr == f"interrupted; the server was asked to cancel job {job.id}\n"
    assert json.loads(stdout) == {"error": "interrupted", "job": job.id, "cancelled": True}
    assert service.do(service.live.store.wait_ended(job.id, 300.0)).state is JobState.CANCELLED


def test_an_interruption_while_the_server_is_gone_says_that_the_job_goes_on(
    service: Service, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Client, id: str) -> Iterator[None]:
        service.do(service.live.stop())
        raise KeyboardInterrupt

    service.do(service.live.store.pause())
    monkeypatch.setattr(Client, "events", interrupt)
    monkeypatch.setattr("latentgraph.cli.submit._CANCEL_SECONDS", 0.0)
    result = call(service, numbers, "--set", "words=x", "--json")
    assert result.exit_code == 130
    assert "goes on, since it could not be cancelled" in result.stderr
    assert json.loads(result.stdout)["cancelled"] is False


def test_an_interruption_before_the_server_has_the_job_says_so(
    service: Service, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "submit", interrupt)
    result = call(service, numbers, "--set", "words=x")
    assert result.exit_code == 130
    assert "may have taken the job" in result.stderr


def test_a_server_that_restarts_in_the_middle_is_told_and_waited_for(service: Service, numbers: Path) -> None:
    attempts: list[int] = []

    async def restart_once(live: Live, job: Job) -> None:
        attempts.append(job.attempt)
        if len(attempts) == 1:
            await live.restart()
        else:
            await succeed(live, job)

    service.play = restart_once
    result = call(service, numbers, "--set", "words=x")
    assert result.exit_code == 0, result.stderr
    assert attempts == [1, 2]
    assert result.stderr.startswith("warning: the server was restarted; the job runs again\n")
    assert result.stdout.endswith("image_00001_.png\n")


def event(kind: str, **data: Any) -> EventView:
    return EventView(number=1, kind=kind, attempt=2, at="", data=data)


def test_events_of_a_job_are_those_of_a_run() -> None:
    assert as_event("j", event("started")) == RunStarted("j")
    assert as_event("j", event("planned", nodes=7)) == RunStarted("j", nodes=7)
    assert as_event("j", event("planned", nodes="many")) == RunStarted("j")
    assert as_event("j", event("node_cached", node="a", node_type="A", tier="disk")) == NodeReused(
        "j", "a", "A", "disk"
    )
    progress = event("progress", node="a", node_type="A", step=1, total=4, seconds_left=2)
    assert as_event("j", progress) == NodeProgress("j", "a", "A", 1, 4, 2.0)
    assert as_event("j", event("progress", step="x", node=7)) == NodeProgress("j")
    assert as_event("j", event("node_failed", node="a")) == NodeErred("j", "a")
    assert as_event("j", event("warning", message="odd")) == NodeWarned("j", message="odd")
    assert as_event("j", event("saved", node="a", path="x.png")) is None
    assert as_event("j", event("a kind of the future")) is None


def test_it_is_told_why_a_job_runs_again() -> None:
    assert (
        why_again(event("retrying", why={"message": "no room"})) == "attempt 2 failed: no room; the job is tried again"
    )
    assert why_again(event("retrying", why=None)) == "attempt 2 failed: no reason is told; the job is tried again"
    assert why_again(event("queued")) is None


def test_the_bars_begin_anew_with_the_next_attempt() -> None:
    from io import StringIO

    console = Console(file=StringIO(), force_terminal=True, color_system=None, width=80, emoji=False, highlight=False)
    with RunBars(console) as bars:
        bars.wait("job waits in the queue")
        bars._progress.refresh()
        assert "job waits in the queue" in console.file.getvalue()  # type: ignore[attr-defined]
        for kind, data in (
            ("started", {}),
            ("planned", {"nodes": 7}),
            ("node_started", {"node": "a"}),
            ("progress", {"node": "a", "step": 3, "total": 9}),
        ):
            bars.on_event(as_event("j", event(kind, **data)))  # type: ignore[arg-type]
        bars._progress.refresh()
        assert "3/9" in console.file.getvalue()  # type: ignore[attr-defined]
        assert "0/7" in console.file.getvalue()  # type: ignore[attr-defined]
        bars.on_event(RunStarted("j"))
        assert [(task.description, task.completed, task.total) for task in bars._progress.tasks] == [("nodes", 0, None)]

"""The client against the real app: what it asks is done once, and what it is told is whole, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentgraph.graph import InvalidWorkflow, document_from_tree
from latentgraph.server.api.job_views import EventView, PreviewView
from latentgraph.server.api.settings import Settings
from latentgraph.server.client import Client
from latentgraph.server.client.errors import (
    ClientError,
    Conflict,
    NotAllowed,
    NotThere,
    NotUnderstood,
    Unreachable,
    WorkflowRefused,
)
from latentgraph.server.client.transport import Patience
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.values import JobError, Preview

from .live_fakes import ENDLESS, Wire, aside, living, scripted, short_sleep
from .web_fakes import DOCUMENT, PICTURE_YAML, YAML, png


def written(folder: Path, text: str, name: str = "workflow.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def drawn(folder: Path, name: str = "cat.png", width: int = 2) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(width))
    return path


def numbers(events: list[Any]) -> list[int]:
    return [event.number for event in events if isinstance(event, EventView)]


# Submits


async def test_a_job_is_kept_when_submit_returns(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            file = written(tmp_path, YAML)
            job = await aside(
                client.submit, file, {"words": "ä", "value": 2}, priority=7, outputs=["number"], deadline_seconds=600.0
            )
        kept = await live.store.get(job.id)
        assert (job.state, job.priority, job.deadline is not None) == (JobState.QUEUED, 7, True)
        assert (kept.params, kept.outputs, kept.max_attempts) == ({"words": "ä", "value": 2}, ("number",), 3)
        assert kept.idempotency_key


@pytest.mark.parametrize("form", ["yaml", "json", "tree", "document"])
async def test_a_workflow_comes_in_any_of_these_forms(tmp_path: Path, form: str) -> None:
    forms: dict[str, Any] = {
        "yaml": written(
            tmp_path, "﻿latentgraph: 1\nnodes:\n  one: {type: Constant, words: ä}\noutputs: {number: $one}\n"
        ),
        "json": written(tmp_path, json.dumps(DOCUMENT), "workflow.JSON"),
        "tree": DOCUMENT,
        "document": document_from_tree(DOCUMENT),
    }
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, forms[form])
        assert json.loads((await live.store.get(job.id)).document)["nodes"]["one"]["type"] == "Constant"


async def test_a_stored_workflow_is_run_by_its_name(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            stored = await aside(client.store_workflow, "numbers", written(tmp_path, YAML))
            assert (await aside(client.workflow, "numbers")).sha256 == stored.sha256
            assert [one.name for one in await aside(lambda: list(client.workflows()))] == ["numbers"]
            job = await aside(client.submit, "numbers", {"words": "x"})
            assert job.workflow == "numbers"
            assert [one.id for one in await aside(lambda: list(client.jobs(workflow="numbers")))] == [job.id]
            await aside(client.remove_workflow, "numbers")
            with pytest.raises(NotThere, match="A file is given as a Path"):
                await aside(client.submit, "numbers", {"words": "x"})


async def test_errors_of_a_workflow_are_told_with_file_line_and_column(tmp_path: Path) -> None:
    text = "latentgraph: 1\nnodes:\n  one: {type: Constnt}\n  two: {type: Add, a: $three}\n"
    async with living(tmp_path) as live:
        with live.client() as client:
            with pytest.raises(WorkflowRefused) as caught:
                await aside(client.submit, written(tmp_path, text))
            told = await aside(client.validate, written(tmp_path, text))
        assert isinstance(caught.value, InvalidWorkflow)
        assert (caught.value.status, caught.value.code) == (422, "invalid-workflow")
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(f"{tmp_path / 'workflow.yaml'}:3:15: error: ")
        assert "Did you mean 'Constant'?" in lines[0]
        assert [(one.file, one.line) for one in told.problems] == [
            (str(tmp_path / "workflow.yaml"), line) for line in (3, 4)
        ]
        assert not told.valid
        assert (await live.store.list(owner=None)).items == ()


async def test_a_workflow_without_errors_is_told_to_be_valid(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            told = await aside(client.validate, DOCUMENT)
    assert (told.valid, told.nodes, told.outputs) == (True, 1, ["number"])


async def test_what_json_can_not_hold_is_refused_here(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1") as client:
        for value in (float("nan"), {1, 2}):
            with pytest.raises(ClientError, match="can't be written as JSON"):
                client.submit(DOCUMENT, {"value": value})
        with pytest.raises(ClientError, match="printable"):
            client.submit(DOCUMENT, key="a\nb")


async def test_an_answer_that_is_lost_costs_no_second_job(tmp_path: Path) -> None:
    async with living(tmp_path) as live, Wire(live.port, [0, 40]) as wire:
        with Client(f"http://127.0.0.1:{wire.port}", patience=ENDLESS, sleep=short_sleep) as client:
            job = await aside(client.submit, DOCUMENT)
            other = await aside(client.submit, DOCUMENT)
        assert wire.connections == 3
        kept = [one.id for one in (await live.store.list(owner=None)).items]
        assert kept == [other.id, job.id]


async def test_a_key_of_ones_own_makes_two_submits_one_job(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            first = await aside(client.submit, DOCUMENT, key="mine")
            assert (await aside(client.submit, DOCUMENT, key="mine")).id == first.id
            with pytest.raises(Conflict) as caught:
                await aside(client.submit, DOCUMENT, key="mine", priority=1)
        assert caught.value.code == "idempotency-conflict"
        assert first.id in str(caught.value)


async def test_a_submit_while_the_server_restarts_reaches_the_next_one(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        live.intake.stop()
        with live.client() as client:
            submit = asyncio.create_task(aside(client.submit, DOCUMENT))
            await asyncio.sleep(0)
            await live.restart()
            job = await submit
        assert [one.id for one in (await live.store.list(owner=None)).items] == [job.id]


# Pictures


async def test_pictures_that_parameters_name_are_sent_once_and_named_by_content(tmp_path: Path) -> None:
    picture, file = drawn(tmp_path), written(tmp_path, PICTURE_YAML)
    async with living(tmp_path) as live:
        with live.client() as client:
            first = await aside(client.submit, file, {"picture": str(picture)})
            second = await aside(client.submit, file, {"picture": "cat"})  # as seen from the document, without suffix
            third = await aside(client.submit, file, {"picture": first.params["picture"]})
        id = first.params["picture"]
        assert id.startswith("sha256:")
        assert [job.params["picture"] for job in (second, third)] == [id, id]
        assert (await live.store.uploads.usage("")).files == 1


async def test_a_picture_by_default_lies_beside_its_document(tmp_path: Path) -> None:
    drawn(tmp_path / "library", "examples/face.png")
    text = PICTURE_YAML.replace("description: Which one.", "default: examples/face.png")
    file = written(tmp_path / "library", text)
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, file)
            with pytest.raises(WorkflowRefused, match=r"no image 'examples/face.png' on the server"):
                await aside(client.submit, yaml.safe_load(text))
        assert job.params["picture"].startswith("sha256:")


async def test_a_name_that_is_not_here_is_the_servers_to_find(tmp_path: Path) -> None:
    drawn(tmp_path / "pictures", "there.png")
    async with living(tmp_path) as live:
        with live.client() as client:
            file = written(tmp_path / "here", PICTURE_YAML)
            job = await aside(client.submit, file, {"picture": "there.png"})
            with pytest.raises(WorkflowRefused, match=r"no image 'nowhere.png' on the server"):
                await aside(client.submit, file, {"picture": "nowhere.png"})
        assert job.params["picture"] == "there.png"


async def test_pictures_of_a_stored_workflow_are_sent_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn(tmp_path)
    async with living(tmp_path) as live:
        with live.client() as client:
            await aside(client.store_workflow, "look", written(tmp_path, PICTURE_YAML))
            named = await aside(client.submit, "look", {"picture": "cat.png"})
            given = await aside(client.submit, "look", files={"picture": png(3)})
            read = await aside(client.submit, "look", files={"picture": tmp_path / "cat.png"})
        assert named.params["picture"] == read.params["picture"] != given.params["picture"]


async def test_a_picture_that_is_none_or_can_not_be_read_is_refused(tmp_path: Path) -> None:
    async with living(tmp_path, Settings(upload_bytes=1000)) as live:
        with live.client() as client:
            with pytest.raises(ClientError, match="Content of this type is not taken"):
                await aside(client.upload, b"<svg/>")
            with pytest.raises(ClientError, match=r"The body is too large: The body has 10,000,0.. bytes"):
                await aside(client.upload, png() + b"\0" * 10_000_000)
            with pytest.raises(ClientError, match="can't be read: No such file"):
                await aside(client.upload, tmp_path / "none.png")


# Tokens


async def test_a_token_is_needed_where_there_are_tokens(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        token, other = await live.new_token("submit"), await live.new_token("read")
        with live.client(token) as client:
            job = await aside(client.submit, DOCUMENT)
        for wrong, words in ((None, "A token is needed"), ("lg_wrong", "not known"), (other, "no scope 'submit'")):
            with live.client(wrong) as client, pytest.raises(NotAllowed, match=words):
                await aside(client.submit, DOCUMENT)
        with live.client(other) as client, pytest.raises(NotThere, match="There is no such job"):
            await aside(client.job, job.id)


# Looking and cancelling


async def test_jobs_are_found_and_cancelled(tmp_path: Path) -> None:
    async with living(tmp_path, Settings(page_size=2)) as live:
        with live.client() as client:
            ids = [(await aside(client.submit, DOCUMENT)).id for _ in range(5)]
            assert [one.id for one in await aside(lambda: list(client.jobs()))] == ids[::-1]
            for _ in range(2):
                assert (await aside(client.cancel, ids[0])).state is JobState.CANCELLED
            waiting = await aside(lambda: list(client.jobs([JobState.QUEUED])))
            assert [one.id for one in waiting] == ids[:0:-1]
            assert (await aside(client.job, ids[0])).ended
            for call in (client.job, client.cancel, client.wait):
                with pytest.raises(NotThere):
                    await aside(call, "../../etc/passwd\n")


async def test_waiting_ends_with_the_job_or_with_the_time(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            assert not (await aside(client.wait, job.id, 0.0)).ended
            waiting = asyncio.create_task(aside(client.wait, job.id))
            await live.succeed(await live.claim(), number=1.5)
            ended = await waiting
        assert (ended.state, ended.values, ended.seconds) == (JobState.SUCCEEDED, {"number": 1.5}, 0.5)


async def test_a_failure_is_told_with_its_node(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            taken = await live.claim()
            error = JobError("node_failed", "it was not to be", "one", "Constant")
            await live.store.fail(taken.id, taken.attempt, error, retry=False)
            ended = await aside(client.wait, job.id)
        assert ended.error is not None
        assert (ended.state, ended.error.node, ended.error.message) == (JobState.FAILED, "one", "it was not to be")


# Events


async def test_events_come_from_any_number_on_to_the_end(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            await live.tell_steps(taken := await live.claim(), 1, 2, 3)
            await live.succeed(taken)
            told = await aside(lambda: list(client.events(job.id)))
            kinds = [event.kind for event in told]
            assert kinds == ["queued", "started", "progress", "progress", "progress", "finished"]
            assert numbers(told) == [1, 2, 3, 4, 5, 6]
            assert isinstance(told[2], EventView)
            assert told[2].data == {"node": "one", "step": 1, "total": 100}
            assert numbers(await aside(lambda: list(client.events(job.id, 4)))) == [5, 6]
            assert await aside(lambda: list(client.events(job.id, 6))) == []
            with pytest.raises(NotThere):
                await aside(lambda: list(client.events("0" * 32)))


async def test_previews_come_for_those_who_ask(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            taken = await live.claim()
            stream = client.events(job.id, 1, previews=True)
            assert (await aside(next, stream)).kind == "started"
            live.store.publish_preview(job.id, Preview(1, "one", b"\xff\xd8\xff"))
            assert await aside(next, stream) == PreviewView(attempt=1, node="one", jpeg="/9j/")
            await live.succeed(taken)
            assert [event.kind for event in await aside(list, stream)] == ["finished"]


@pytest.mark.parametrize("every", [1, 37, 200, 411])
async def test_a_stream_that_is_cut_again_and_again_has_no_gap_and_no_repetition(tmp_path: Path, every: int) -> None:
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
        taken = await live.claim()
        await live.tell_steps(taken, *range(1, 41))
        await live.succeed(taken)
        cuts = [every * (n % 7) + 300 * (n % 5) for n in range(60)]
        async with Wire(live.port, cuts) as wire:
            with Client(f"http://127.0.0.1:{wire.port}", patience=ENDLESS, sleep=short_sleep) as client:
                told = await aside(lambda: list(client.events(job.id)))
            assert wire.connections > 5
        assert numbers(told) == list(range(1, 44))
        assert told[-1].kind == "finished"


async def test_a_job_is_followed_through_restarts_of_its_server(tmp_path: Path) -> None:
    """The server is ended twice while the job runs and starts again on its store, as after a kill."""
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            stream = client.events(job.id)
            told = [await aside(next, stream)]
            following = asyncio.create_task(aside(list, stream))
            waiting = asyncio.create_task(aside(client.wait, job.id))
            await live.tell_steps(await live.claim(), 1, 2)
            await live.restart()
            await live.tell_steps(await live.claim(), 1, 2, 3)
            await live.stop()
            await asyncio.sleep(0.05)  # so that some tries find nobody
            await live.start()
            taken = await live.claim()
            await live.tell_steps(taken, 1)
            await live.succeed(taken, {"number": {"number_00001_.txt": b"1.5"}})
            told += await following
            ended = await waiting
            files = await aside(client.download, ended, tmp_path / "got")
        assert [event.kind for event in told] == [
            *("queued", "started", "progress", "progress", "restarted"),
            *("started", "progress", "progress", "progress", "restarted"),
            *("started", "progress", "finished"),
        ]
        assert numbers(told) == list(range(1, len(told) + 1))
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 3)
        assert {name: [path.read_bytes() for path in paths] for name, paths in files.items()} == {"number": [b"1.5"]}


async def test_a_reader_that_takes_long_has_all_the_patience_left(tmp_path: Path) -> None:
    """The time that passes between two events is the reader's, and no failure of the server."""
    clock = [0.0]
    async with living(tmp_path) as live:
        with live.client() as client:
            job = await aside(client.submit, DOCUMENT)
            await live.claim()
        async with Wire(live.port, [700]) as wire:
            patience = Patience(total=60.0, first=60.0)
            address = f"http://127.0.0.1:{wire.port}"
            with Client(address, patience=patience, sleep=short_sleep, now=lambda: clock[0]) as client:
                stream = client.events(job.id)
                assert (await aside(next, stream)).kind == "queued"
                clock[0] += 3600.0
                await live.store.cancel(job.id)
                await live.store.cancelled(job.id, 1)
                assert numbers(await aside(list, stream)) == [2, 3, 4]
                assert wire.connections == 2


def sse(*events: tuple[int, str]) -> bytes:
    def line(number: int, kind: str) -> str:
        view = EventView(number=number, kind=kind, attempt=0, at="2024-01-01T00:00:00.000Z", data={})
        return f"id: {number}\nevent: {kind}\ndata: {view.model_dump_json()}\n\n"

    return "".join(line(*event) for event in events).encode()


STREAM = {"Content-Type": "text/event-stream", "Connection": "close"}


def test_what_is_missing_is_asked_for_again_and_what_is_told_again_is_passed_over() -> None:
    first, rest = sse((1, "queued"), (3, "started")), sse((1, "queued"), (2, "x"), (3, "started"), (4, "finished"))
    with (
        scripted((200, STREAM, first), (200, STREAM, rest)) as script,
        Client(script.url, patience=ENDLESS, sleep=short_sleep) as client,
    ):
        assert [(event.kind, event.number) for event in client.events("a/b") if isinstance(event, EventView)] == [
            ("queued", 1),
            ("x", 2),
            ("started", 3),
            ("finished", 4),
        ]
    assert [headers["last-event-id"] for _, _, headers, _ in script.requests] == ["0", "1"]
    assert script.requests[0][1] == "/v1/jobs/a%2Fb/events"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"", Unreachable), (sse((5, "started")), NotUnderstood), (b"retry: 1000\n\n", Unreachable)],
)
def test_a_server_that_tells_nothing_new_is_given_up(body: bytes, kind: type[ClientError]) -> None:
    with (
        scripted((200, STREAM, body)) as script,
        Client(script.url, sleep=lambda _: None) as client,
        pytest.raises(kind),
    ):
        list(client.events("a"))
    assert 20 < len(script.requests) < 500


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/html"}, b"<html>"),
        (STREAM, b"data: {\n\n"),
        (STREAM, b"event: preview\ndata: {}\n\n"),
        (STREAM, b'event: progress\ndata: {"number": "one"}\n\n'),
    ],
)
def test_what_are_no_events_is_told_as_such(headers: dict[str, str], body: bytes) -> None:
    with scripted((200, headers, body)) as script, Client(script.url) as client, pytest.raises(NotUnderstood):
        list(client.events("a"))


def test_what_is_no_job_is_told_as_such() -> None:
    with (
        scripted((200, {}, b'{"hello": "world"}')) as script,
        Client(script.url) as client,
        pytest.raises(NotUnderstood, match=r"no latentgraph server"),
    ):
        client.job("a")


def test_the_client_is_there_in_a_moment() -> None:
    code = (
        "import sys, latentgraph.server.client.calls\n"
        "print([m for m in ('torch', 'aiohttp', 'diffusers', 'networkx', 'PIL', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

"""Jobs over HTTP: every form of a submit, what is answered of them, and what they gave."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from PIL import Image

from latentgraph.server.api.settings import Settings
from latentgraph.server.jobs.states import JobState
from latentgraph.server.jobs.values import JobError, QueueLimits

from .web_fakes import DOCUMENT, PICTURE_YAML, YAML, pillow_picture, png, serving


async def test_a_job_is_accepted_with_its_address_and_found_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        async with await site.ask("POST", "/v1/jobs", json={"document": DOCUMENT, "priority": 5}) as response:
            assert response.status == 202
            job = await response.json()
        assert response.headers["Location"] == job["href"] == f"/v1/jobs/{job['id']}"
        assert (job["state"], job["priority"], job["ended"], job["outputs"]) == ("queued", 5, False, {})
        assert await site.json("GET", job["href"]) == job
        assert await site.json("GET", job["href"] + "/document") == DOCUMENT


FORMS: dict[str, dict[str, Any]] = {
    "object": {"json": {"document": DOCUMENT}},
    "yaml in json": {"json": {"document": YAML, "params": {"words": "x", "value": 2}}},
    "yaml alone": {
        "data": YAML.replace("type: string}", "type: string, default: x}"),
        "headers": {"Content-Type": "application/yaml"},
    },
    "text/yaml, with a charset": {
        "data": YAML.replace("type: string}", "type: string, default: x}"),
        "headers": {"Content-Type": "text/yaml; charset=utf-8"},
    },
    "another json": {"data": json.dumps({"document": DOCUMENT}), "headers": {"Content-Type": "application/x+json"}},
    "stored": {"json": {"workflow": "numbers", "params": {"words": "x"}}},
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_job_may_come_in_any_of_these_forms(tmp_path: Path, form: str) -> None:
    async with serving(tmp_path) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        job = await site.json("POST", "/v1/jobs", 202, **FORMS[form])
        kept = await site.store.get(job["id"])
        assert json.loads(kept.document)["nodes"]["one"]["type"] == "Constant"
        assert kept.workflow == ("numbers" if form == "stored" else "")


async def test_a_form_carries_a_document_and_the_files_of_its_parameters(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        form = FormData()
        form.add_field("document", PICTURE_YAML, filename="workflow.yaml", content_type="application/yaml")
        form.add_field("params", '{"seed": 8}')
        form.add_field("picture", png(), filename="../../cat.png", content_type="image/svg+xml")
        job = await site.json("POST", "/v1/jobs?priority=3", 202, data=form)
        assert (job["priority"], job["params"]["seed"]) == (3, 8)
        id = job["params"]["picture"]
        async with await site.ask("GET", f"/v1/files/{id}") as response:
            assert await response.read() == png()


async def test_a_form_may_hold_the_request_as_json(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        form = FormData()
        form.add_field("request", json.dumps({"document": PICTURE_YAML, "priority": -7}))
        form.add_field("picture", pillow_picture("JPEG"), filename="cat.jpg")
        job = await site.json("POST", "/v1/jobs?strip_metadata=true", 202, data=form)
        assert job["priority"] == -7
        assert job["params"]["picture"].startswith("sha256:")


async def test_a_workflow_with_errors_is_refused_with_the_whole_report(tmp_path: Path) -> None:
    document = (
        "latentgraph: 1\nnodes:\n  a: {type: Constnt}\n  b: {type: Constant, value: much}\noutputs: {x: $a, y: $c}"
    )
    async with serving(tmp_path) as site:
        problem = await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": document})
        assert [(one["code"], one["line"], one["near"]) for one in problem["problems"]] == [
            ("unknown-type", 3, "Constant"),
            ("wrong-type", 4, None),
            ("dangling-link", 5, None),
        ]
        assert "(and 2 more)" in problem["detail"]
        assert (await site.json("GET", "/v1/jobs"))["items"] == []


REFUSED: dict[str, tuple[Any, int, str]] = {
    "nothing to run": ({}, 422, "invalid-request"),
    "two things to run": ({"document": DOCUMENT, "workflow": "numbers"}, 422, "invalid-request"),
    "no such workflow": ({"workflow": "none"}, 404, "unknown-workflow"),
    "a name that leads out": ({"workflow": "../numbers"}, 422, "invalid-request"),
    "an unknown key": ({"document": DOCUMENT, "prio": 1}, 422, "invalid-request"),
    "a list": ([], 422, "invalid-request"),
    "an unknown output": ({"document": DOCUMENT, "outputs": ["number", "text"]}, 422, "invalid-request"),
    "a priority that is a text": ({"document": DOCUMENT, "priority": "5"}, 422, "invalid-request"),
    "a priority that is true": ({"document": DOCUMENT, "priority": True}, 422, "invalid-request"),
    "a priority out of bounds": ({"document": DOCUMENT, "priority": 101}, 422, "invalid-request"),
    "a deadline of never": ({"document": DOCUMENT, "deadline_seconds": 1e300}, 422, "invalid-request"),
    "a deadline that has passed": ({"document": DOCUMENT, "deadline_seconds": -1}, 422, "invalid-request"),
    "no attempt": ({"document": DOCUMENT, "max_attempts": 0}, 422, "invalid-request"),
    "a webhook": ({"document": DOCUMENT, "webhook": "http://169.254.169.254/"}, 422, "invalid-request"),
    "a document that is a number": ({"document": 3}, 422, "invalid-request"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_not_be_a_job_is_refused(tmp_path: Path, name: str) -> None:
    body, status, code = REFUSED[name]
    async with serving(tmp_path) as site:
        problem = await site.problem("POST", "/v1/jobs", status, code, json=body)
        assert problem["type"] == f"urn:problem:latentgraph:{code}"
        assert problem["detail"].endswith(".")
        assert sum((await site.store.counts()).values()) == 0


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', "1.5"])
async def test_a_priority_that_is_no_whole_number_is_refused(tmp_path: Path, text: str) -> None:
    body = f'{{"document": {json.dumps(DOCUMENT)}, "priority": {text}}}'
    async with serving(tmp_path) as site:
        async with await site.ask(
            "POST", "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status in (400, 422)
        async with await site.ask("POST", f"/v1/jobs?priority={text}", json={"document": DOCUMENT}) as response:
            assert response.status == 422


async def test_jobs_of_equal_priority_run_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        ids = [(await site.submit(priority=1))["id"] for _ in range(5)]
        first = (await site.submit(priority=2))["id"]
        assert [await site.run_next() for _ in range(6)] == [first, *ids]


async def test_an_idempotency_key_gives_the_first_job_again(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "one"}
    async with serving(tmp_path) as site:
        job = await site.json("POST", "/v1/jobs", 202, json={"document": DOCUMENT}, headers=key)
        async with await site.ask("POST", "/v1/jobs", json={"document": DOCUMENT}, headers=key) as response:
            again = await response.json()
            assert response.headers["Idempotency-Replayed"] == "true"
        assert again == job
        body = {"document": DOCUMENT, "priority": 1}
        problem = await site.problem("POST", "/v1/jobs", 409, "idempotency-conflict", json=body, headers=key)
        assert problem["job"] == job["id"]
        await site.run_next(number=3)
        ended = await site.json("POST", "/v1/jobs", 200, json={"document": DOCUMENT}, headers=key)
        assert (ended["id"], ended["values"]) == (job["id"], {"number": 3})


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
async def test_an_idempotency_key_that_can_not_be_kept_is_refused(tmp_path: Path, key: str) -> None:
    async with serving(tmp_path) as site:
        await site.problem(
            "POST", "/v1/jobs", 400, "malformed", json={"document": DOCUMENT}, headers={"Idempotency-Key": key}
        )


async def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=QueueLimits(max_waiting=2)) as site:
        for _ in range(2):
            await site.submit()
        async with await site.ask("POST", "/v1/jobs", json={"document": DOCUMENT}) as response:
            assert (response.status, (await response.json())["code"]) == (429, "queue-full")
            assert int(response.headers["Retry-After"]) >= 1


async def test_a_server_that_shuts_down_takes_no_more_jobs(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        site.parts.intake.stop()
        for path in ("/v1/jobs", "/v1/workflows/numbers"):
            async with await site.ask("POST", path, json={"document": DOCUMENT}) as response:
                assert (response.status, (await response.json())["code"]) == (503, "draining")
                assert int(response.headers["Retry-After"]) >= 1
        assert (await site.json("GET", "/v1/jobs"))["items"] == []


async def test_jobs_are_listed_by_page_state_and_workflow(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(largest_page=3)) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        ids = [(await site.submit())["id"] for _ in range(4)]
        stored = await site.json("POST", "/v1/workflows/numbers", 202, json={"words": "x"})
        await site.run_next()
        page = await site.json("GET", "/v1/jobs?limit=1000")
        rest = await site.json("GET", f"/v1/jobs?before={page['next']}")
        assert [job["id"] for job in page["items"] + rest["items"]] == [stored["id"], *reversed(ids)]
        assert (len(page["items"]), rest["next"]) == (3, None)
        states = await site.json("GET", "/v1/jobs?state=succeeded&state=failed")
        assert [job["id"] for job in states["items"]] == ids[:1]
        named = await site.json("GET", "/v1/jobs?workflow=numbers")
        assert [job["id"] for job in named["items"]] == [stored["id"]]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "before=-1",
        "before=1e99",
        "state=done",
        "states=queued",
        "limit=1&limit=2",
        "workflow=../x",
    ],
)
async def test_a_query_that_means_nothing_is_refused(tmp_path: Path, query: str) -> None:
    async with serving(tmp_path) as site:
        await site.problem("GET", f"/v1/jobs?{query}", 422, "invalid-request")


async def test_waiting_ends_with_the_job_or_with_the_time(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(longest_wait_seconds=0.05)) as site:
        job = await site.submit()
        assert (await site.json("GET", f"{job['href']}?wait=1000"))["state"] == "queued"
    async with serving(tmp_path / "other") as site:
        waiting = asyncio.create_task(site.json("POST", "/v1/jobs?wait=30", 200, json={"document": DOCUMENT}))
        while not (await site.store.counts())[JobState.QUEUED]:
            await asyncio.sleep(0.001)
        id = await site.run_next(number=4)
        job = await waiting
        assert (job["id"], job["state"], job["values"]) == (id, "succeeded", {"number": 4})
        assert (await site.json("GET", f"{job['href']}?wait=30"))["state"] == "succeeded"


async def test_cancelling_may_be_repeated_and_never_hits_what_has_ended(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        waiting, running = await site.submit(), await site.submit(priority=1)
        await site.store.claim("w0")
        for _ in range(2):
            assert (await site.json("DELETE", waiting["href"]))["state"] == "cancelled"
            job = await site.json("DELETE", running["href"], 202)
            assert (job["state"], job["cancel_requested"]) == ("running", True)
        await site.store.cancelled(running["id"], 1)
        assert (await site.json("DELETE", running["href"]))["state"] == "cancelled"


async def test_a_failed_job_says_why_and_where(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.store.claim("w0")
        error = JobError("node_failed", "it was not to be", node="one", node_type="Constant", detail="line 3")
        await site.store.fail(job["id"], 1, error, retry=False)
        found = await site.json("GET", job["href"])
        assert (found["state"], found["error"]["node"], found["error"]["detail"]) == ("failed", "one", "line 3")


async def test_outputs_are_fetched_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.problem("GET", f"{job['href']}/outputs/image", 404, "unknown-file")
        await site.run_next({"image": {"a.png": png(3, 1), "b.png": png(1, 3)}}, count={"of": [2]})
        found = await site.json("GET", job["href"])
        hrefs = [file["href"] for file in found["outputs"]["image"]]
        assert hrefs == [f"{job['href']}/outputs/image", f"{job['href']}/outputs/image?index=1"]
        for href, data in zip(hrefs, (png(3, 1), png(1, 3)), strict=True):
            async with await site.ask("GET", href) as response:
                assert (await response.read(), response.headers["Content-Type"]) == (data, "image/png")
        assert await site.json("GET", f"{job['href']}/outputs/count") == {"of": [2]}
        problem = await site.problem("GET", f"{job['href']}/outputs/image?index=2", 404, "unknown-file")
        assert "has 2 files" in problem["detail"]
        problem = await site.problem("GET", f"{job['href']}/outputs/imag", 404, "unknown-file")
        assert "it has image, count" in problem["detail"]


async def test_an_output_may_be_fetched_in_parts_and_not_at_all_if_it_is_known(tmp_path: Path) -> None:
    data = pillow_picture("PNG")
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.run_next({"image": {"a.png": data}})
        href = f"{job['href']}/outputs/image"
        for wanted, expected in {
            "bytes=0-9": data[:10],
            "bytes=-5": data[-5:],
            "bytes=7-": data[7:],
            "lines=1": data,
        }.items():
            async with await site.ask("GET", href, headers={"Range": wanted}) as response:
                assert await response.read() == expected
                assert response.status == (200 if expected == data else 206)
        await site.problem("GET", href, 416, "bad-range", headers={"Range": "bytes=99999-"})
        async with await site.ask("HEAD", href) as response:
            assert (response.headers["Content-Length"], await response.read()) == (str(len(data)), b"")
        async with await site.ask("GET", href, headers={"If-None-Match": response.headers["ETag"]}) as again:
            assert (again.status, await again.read()) == (304, b"")


async def test_a_picture_may_be_fetched_in_small(tmp_path: Path) -> None:
    made = io.BytesIO()
    Image.new("RGB", (800, 400), "red").save(made, "PNG")
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.run_next({"image": {"a.png": made.getvalue()}, "text": {"a.txt": b"words"}})
        href = f"{job['href']}/outputs/image?thumbnail="
        async with await site.ask("GET", f"{href}128") as response:
            data = await response.read()
            assert (response.status, response.content_type) == (200, "image/webp")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as small:
            assert small.size == (128, 64)
        async with await site.ask("GET", f"{href}128", headers={"If-None-Match": response.headers["ETag"]}) as again:
            assert (again.status, await again.read()) == (304, b"")
        async with await site.ask("GET", f"{href}192", headers={"If-None-Match": response.headers["ETag"]}) as other:
            assert other.status == 200
        for side in ("0", "100", "576", "x"):
            await site.problem("GET", f"{href}{side}", 422, "invalid-request")
        await site.problem("GET", f"{job['href']}/outputs/text?thumbnail=128", 415, "unsupported-type")
        shutil.rmtree(site.store.outputs / job["id"])
        await site.problem("GET", f"{href}256", 404, "unknown-file")


async def test_a_file_that_was_thrown_away_is_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        job = await site.submit()
        await site.run_next({"image": {"a.png": png()}})
        (site.store.outputs / job["id"] / "a.png").unlink()
        await site.problem("GET", f"{job['href']}/outputs/image", 404, "unknown-file")

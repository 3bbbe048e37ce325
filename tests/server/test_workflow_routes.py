"""Stored workflows over HTTP: kept as they were written, checked as far as they can be, and each an endpoint of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from yarl import URL

from latentgraph.server.api.settings import Settings

from .web_fakes import DOCUMENT, PICTURE_YAML, YAML, Site, png, serving

AS_YAML = {"Content-Type": "application/yaml"}


async def store(site: Site, name: str = "numbers", text: str = YAML, status: int = 201) -> dict[str, Any]:
    view: dict[str, Any] = await site.json("PUT", f"/v1/workflows/{name}", status, data=text, headers=AS_YAML)
    return view


async def test_a_workflow_is_kept_as_it_was_written(tmp_path: Path) -> None:
    text = "# a comment\n" + YAML
    async with serving(tmp_path) as site:
        await store(site, text=text)
        async with await site.ask("GET", "/v1/workflows/numbers") as response:
            assert (await response.text(), response.content_type) == (text, "application/yaml")
            assert response.headers["Content-Disposition"].startswith('attachment; filename="numbers.yaml"')
            etag = response.headers["ETag"]
        async with await site.ask("GET", "/v1/workflows/numbers", headers={"If-None-Match": etag}) as response:
            assert response.status == 304
        await store(site, text=YAML, status=200)
        async with await site.ask("GET", "/v1/workflows/numbers", headers={"If-None-Match": etag}) as response:
            assert (response.status, await response.text()) == (200, YAML)


async def test_what_is_known_of_a_workflow_makes_a_form(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        view = await store(site)
        assert view == await site.json("GET", "/v1/workflows/numbers", headers={"Accept": "application/json"}) | {
            "warnings": view["warnings"]
        }
        assert (view["description"], view["outputs"]) == ("Give a number.", ["number"])
        value, words = view["params"]["value"], view["params"]["words"]
        assert (value["type"], value["min"], value["max"], value["default"]) == ("number", 0, 10, 1.5)
        assert (words["required"], words["expected"]) == (True, "text")
        assert [one["code"] for one in view["warnings"]] == ["missing-param"]


async def test_workflows_are_listed_by_name_and_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for name in ("c", "a", "b"):
            await store(site, name)
        page = await site.json("GET", "/v1/workflows?limit=2")
        assert ([one["name"] for one in page["items"]], page["next"]) == (["a", "b"], "b")
        rest = await site.json("GET", f"/v1/workflows?after={page['next']}")
        assert ([one["name"] for one in rest["items"]], rest["next"]) == (["c"], None)


async def test_a_workflow_with_errors_is_not_stored(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        bad = YAML.replace("Constant", "Constnt")
        problem = await site.problem("PUT", "/v1/workflows/numbers", 422, "invalid-workflow", data=bad, headers=AS_YAML)
        assert ("unknown-type", 7) in [(one["code"], one["line"]) for one in problem["problems"]]
        await site.problem("GET", "/v1/workflows/numbers", 404, "unknown-workflow")
        as_json = {"Content-Type": "application/json"}
        problem = await site.problem(
            "PUT", "/v1/workflows/x", 422, "invalid-workflow", data='{\n"a": }', headers=as_json
        )
        assert (problem["problems"][0]["line"], problem["problems"][0]["column"]) == (2, 6)


async def test_a_workflow_may_name_files_that_a_run_will_send(tmp_path: Path) -> None:
    text = PICTURE_YAML.replace("description:", "default: cat.png, description:")
    async with serving(tmp_path) as site:
        view = await store(site, "pictures", text)
        assert [(one["code"], one["severity"]) for one in view["warnings"]] == [("file-not-found", "warning")]
        problem = await site.problem("POST", "/v1/workflows/pictures", 422, "invalid-workflow", json={})
        assert "there is no image 'cat.png' on the server" in problem["detail"]
        assert str(tmp_path) not in json.dumps(problem)


STRANGE = ["..", "%2e%2e", "..%2fx", "a%2fb", "a%00", "a%0a", "-a", ".a", "a" * 101, "a%20b", "%ff", "%c3%a9", "a%5cb"]


@pytest.mark.parametrize("name", STRANGE)
async def test_a_name_that_could_mean_something_else_is_none(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as site:
        url = URL(f"/v1/workflows/{name}", encoded=True)
        for method in ("PUT", "GET", "POST", "DELETE"):
            data = YAML if method == "PUT" else None
            async with await site.ask(method, url, data=data, headers=AS_YAML) as response:
                assert response.status in (404, 405, 422), await response.text()
        assert await site.store.workflows.list() == ()


async def test_a_run_takes_its_parameters_as_the_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await store(site)
        job = await site.json("POST", "/v1/workflows/numbers?priority=-3", 202, json={"words": "a", "value": 3})
        assert (job["workflow"], job["priority"], job["params"]) == ("numbers", -3, {"words": "a", "value": 3})
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"words": 1}, "wrong-type"),
            ({"words": "a", "value": 11}, "out-of-range"),
            ({"x": 1}, "unknown-param"),
        ]
        for params, code in wrong:
            problem = await site.problem("POST", "/v1/workflows/numbers", 422, "invalid-workflow", json=params)
            assert code in [one["code"] for one in problem["problems"]]
        await site.problem("POST", "/v1/workflows/numbers", 422, "invalid-request", json=[1])


async def test_a_run_without_parameters_needs_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.store.workflows.put("one", json.dumps(DOCUMENT), "application/json")
        job = await site.json("POST", "/v1/workflows/one", 202)
        assert job["params"] == {}


async def test_a_form_gives_texts_their_types_and_files_their_ids(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await store(site, "pictures", PICTURE_YAML)
        form = FormData()
        form.add_field("seed", "12")
        form.add_field("picture", png(), filename="x.png")
        job = await site.json("POST", "/v1/workflows/pictures", 202, data=form)
        assert job["params"]["seed"] == 12
        assert job["params"]["picture"].startswith("sha256:")
        await site.problem("POST", "/v1/workflows/pictures", 415, "unsupported-type", data=FormData({"seed": "1"}))


async def test_the_same_key_runs_a_workflow_once_even_if_it_changed_since(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "one"}
    async with serving(tmp_path) as site:
        await store(site)
        job = await site.json("POST", "/v1/workflows/numbers", 202, json={"words": "a"}, headers=key)
        await store(site, text=YAML.replace("1.5", "2.5"), status=200)
        assert (await site.json("POST", "/v1/workflows/numbers", 202, json={"words": "a"}, headers=key))["id"] == job[
            "id"
        ]


async def test_a_key_stands_for_its_job_even_if_it_could_not_be_accepted_any_more(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "one"}
    async with serving(tmp_path) as site:
        picture = await site.upload(png())
        body = {"document": PICTURE_YAML, "params": {"picture": picture}}
        job = await site.json("POST", "/v1/jobs", 202, json=body, headers=key)
        await site.json("DELETE", f"/v1/files/{picture}", 204)
        await site.problem("POST", "/v1/jobs", 422, "invalid-workflow", json=body)
        assert (await site.json("POST", "/v1/jobs", 202, json=body, headers=key))["id"] == job["id"]


async def test_a_stored_workflow_may_name_files_of_the_admin_who_stored_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        user, admin = await site.new_token("submit"), await site.new_token("admin")
        picture = await admin.upload(png())
        text = PICTURE_YAML.replace("description:", f"default: {picture}, description:")
        await admin.json("PUT", "/v1/workflows/pictures", 201, data=text, headers=AS_YAML)
        await user.json("POST", "/v1/workflows/pictures", 202, json={})
        await user.problem(
            "POST", "/v1/workflows/pictures", 422, "invalid-workflow", json={"picture": "sha256:" + "0" * 64}
        )
        async with await user.ask("GET", f"/v1/files/{picture}") as response:
            assert await response.read() == png()
        await user.json("POST", "/v1/jobs", 202, json={"document": text})  # as a page does that changes it first
        await user.problem("DELETE", f"/v1/files/{picture}", 404, "unknown-file")
        await admin.json("DELETE", "/v1/workflows/pictures", 204)
        await user.problem("POST", "/v1/jobs", 422, "invalid-workflow", json={"document": text})
        await user.problem("GET", f"/v1/files/{picture}", 404, "unknown-file")


async def test_removing_a_workflow_leaves_its_jobs(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await store(site)
        job = await site.json("POST", "/v1/workflows/numbers", 202, json={"words": "a"})
        await site.json("DELETE", "/v1/workflows/numbers", 204)
        await site.problem("DELETE", "/v1/workflows/numbers", 404, "unknown-workflow")
        assert (await site.json("GET", job["href"]))["workflow"] == "numbers"


async def test_stored_workflows_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(workflows=2)) as site:
        await store(site, "a")
        await store(site, "b")
        await store(site, "a", status=200)
        await site.problem("PUT", "/v1/workflows/c", 413, "too-many-workflows", data=YAML, headers=AS_YAML)


async def test_only_an_admin_changes_what_others_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await store(site)
        user, admin = await site.new_token("submit"), await site.new_token("admin")
        await user.json("POST", "/v1/workflows/numbers", 202, json={"words": "a"})
        for method in ("PUT", "DELETE"):
            await user.problem(method, "/v1/workflows/numbers", 403, "missing-scope", data=YAML, headers=AS_YAML)
        await admin.json("DELETE", "/v1/workflows/numbers", 204)

"""OpenAPI: it says what the server serves, all of it and nothing else, and what the server answers is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.api import app, catalogue_views, job_views, schemas, views
from latentgraph.server.api.openapi import openapi_document, param_schema
from latentgraph.server.api.problems import TITLES
from latentgraph.server.api.try_page import PAGE, PAGE_POLICY
from latentgraph.server.api.views import ParamView

from .web_fakes import DOCUMENT, PICTURE_YAML, YAML, png, serving


async def nothing(*arguments: Any) -> list[dict[str, Any]]:
    return []


async def test_every_route_is_documented_and_every_documented_route_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path, explain=nothing, models=nothing) as site:
        served = {
            (route.method, route.resource.canonical)
            for route in site.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        document = await site.json("GET", "/v1/openapi.json")
        documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert served == documented
        assert document["openapi"] == "3.1.0"


def test_operations_have_ids_summaries_and_declared_parameters() -> None:
    operations = [
        (path, method, operation)
        for path, methods in openapi_document(app.ROUTES)["paths"].items()
        for method, operation in methods.items()
    ]
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations:
        assert operation["summary"].endswith("."), (path, method)
        named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(code.isdecimal() for code in operation["responses"])


def test_every_reference_leads_somewhere_and_every_model_is_used() -> None:
    document = openapi_document(app.ROUTES)
    text = json.dumps(document)
    defined = set(document["components"]["schemas"])
    referred = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert referred == defined
    assert "$defs" not in text


def test_problems_of_routes_are_known() -> None:
    for route in app.ROUTES:
        assert set(route.problems) <= set(TITLES), route.path
        assert route.query is None or route.query.__module__ == schemas.__name__


async def test_a_stored_workflow_is_an_endpoint_typed_from_its_parameters(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        await site.store.workflows.put("pictures", PICTURE_YAML, "application/yaml")
        paths = (await site.json("GET", "/v1/openapi.json"))["paths"]
        content = paths["/v1/workflows/numbers"]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json"}
        assert content["application/json"]["schema"] == {
            "type": "object",
            "properties": {
                "value": {"type": "number", "minimum": 0, "maximum": 10, "description": "Which.", "default": 1.5},
                "words": {"type": "string"},
            },
            "required": ["words"],
            "additionalProperties": False,
        }
        form = paths["/v1/workflows/pictures"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["properties"]["picture"]["contentMediaType"] == "application/octet-stream"
        user = site.of("lg_" + "x" * 43)
        await site.new_token("read")
        await user.problem("GET", "/v1/openapi.json", 401, "wrong-token")
        public = await site.json("GET", "/v1/openapi.json")
        assert "/v1/workflows/numbers" not in public["paths"], "who has no token learns no names"


@pytest.mark.parametrize(
    ("param", "schema"),
    [
        (ParamView(type="seed", required=True, expected=""), {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}),
        (
            ParamView(type="string", required=False, default="a", expected="", choices=["a", "b"]),
            {"enum": ["a", "b"], "default": "a"},
        ),
        (
            ParamView(type="integer", required=True, expected="", min=1, max=9, multiple_of=2),
            {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2},
        ),
        (ParamView(type="mask_file", required=True, expected=""), {"type": "string", "format": "latentgraph-file"}),
    ],
)
def test_a_parameter_is_a_schema(param: ParamView, schema: dict[str, Any]) -> None:
    assert param_schema(param) == schema


async def test_answers_are_what_their_models_say(tmp_path: Path) -> None:
    """Each view forbids nothing when it is read, so it is compared with what is written again."""
    async with serving(tmp_path, models=nothing) as site:
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        job = await site.submit()
        await site.run_next({"image": {"a.png": png()}}, number=3)
        upload = await site.upload(png())
        assert upload
        for model, path in (
            (job_views.JobPage, "/v1/jobs"),
            (job_views.JobView, job["href"]),
            (views.WorkflowPage, "/v1/workflows"),
            (catalogue_views.NodeTypesView, "/v1/nodes"),
            (catalogue_views.ModelsView, "/v1/models"),
            (views.QueueView, "/v1/queue"),
            (views.HealthView, "/healthz"),
            (views.ReadyView, "/readyz"),
        ):
            found = await site.json("GET", path)
            assert model.model_validate(found).model_dump(mode="json") == found
        problem = await site.problem(
            "POST", "/v1/jobs", 422, "invalid-workflow", json={"document": {**DOCUMENT, "x": 1}}
        )
        assert views.ErrorView.model_validate(problem).model_dump(mode="json", exclude_none=True)["problems"]


async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_but_its_script(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, await site.ask("GET", "/v1/docs") as response:
        assert await response.text() == PAGE
        assert response.headers["Content-Security-Policy"] == PAGE_POLICY
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", PAGE)
    assert not re.search(r"https?://|@import|url\(|innerHTML|insertAdjacentHTML|document\.write|eval\(", PAGE)
    assert not re.search(r"<[^>]+\son\w+\s*=", PAGE), "no handler in markup; the policy would stop it"
    assert PAGE.count("<script>") == PAGE.count("<style>") == 1
    assert PAGE_POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in PAGE_POLICY

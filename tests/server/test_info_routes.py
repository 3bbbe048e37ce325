"""Routes that tell: checks, explanations, what there is, how the queue and the server stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentgraph.server.api.settings import Settings
from latentgraph.server.jobs.values import EventKind, JobEvent

from .web_fakes import DOCUMENT, REGISTRY, YAML, FakeWorker, serving


async def test_a_check_answers_with_a_report_whether_or_not_there_are_errors(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        good = await site.json("POST", "/v1/validate", json={"document": DOCUMENT})
        assert good == {"valid": True, "nodes": 1, "outputs": ["number"], "problems": []}
        text, headers = "latentgraph: 1\nnodes: {a: {type: X}}", {"Content-Type": "text/yaml"}
        bad = await site.json("POST", "/v1/validate", data=text, headers=headers)
        assert (bad["valid"], [one["code"] for one in bad["problems"]]) == (False, ["unknown-type"])
        await site.store.workflows.put("numbers", YAML, "application/yaml")
        assert not (await site.json("POST", "/v1/validate", json={"workflow": "numbers"}))["valid"]
        body = {"workflow": "numbers", "params": {"words": "x"}}
        assert (await site.json("POST", "/v1/validate", json=body))["valid"]
        assert (await site.json("GET", "/v1/jobs"))["items"] == []


async def test_of_the_model_files_those_fit_with_which_nothing_more_is_wrong(tmp_path: Path) -> None:
    text = """\
latentgraph: 1
params:
  words: {type: string}
  model: {type: checkpoint_file}
  spare: {type: vae_file}
  picture: {type: image_file}
nodes:
  one: {type: Constant, words: $params.words}
  load: {type: LoadModel, file: $params.model}
  picture: {type: LoadPicture, file: $params.picture}
outputs: {number: $load}
"""
    async with serving(tmp_path) as site:
        (tmp_path / "models" / "damaged.safetensors").write_bytes(b"damaged")
        where = "in models/ of the server's models folder"
        unfit = {"damaged.safetensors": "node 'load' (LoadModel): damaged.safetensors: is damaged."}
        expected = {
            "model": {"kind": "checkpoint", "names": ["emoji", "small.safetensors"], "unfit": unfit, "where": where},
            "spare": {"kind": "vae", "names": [], "unfit": {}, "where": ""},
        }
        assert (await site.json("POST", "/v1/fitting", json={"document": text}))["params"] == expected
        await site.store.workflows.put("judging", text, "application/yaml")
        body = {"workflow": "judging", "params": {"words": "x"}}
        assert (await site.json("POST", "/v1/fitting", json=body))["params"] == expected
        await site.problem("POST", "/v1/fitting", 404, "unknown-workflow", json={"workflow": "none"})
        await site.problem("POST", "/v1/fitting", 422, "invalid-workflow", json={"document": "3.5"})


async def test_explanations_come_from_whoever_can_give_them(tmp_path: Path) -> None:
    asked: list[tuple[str, Mapping[str, Any]]] = []

    async def explain(document: str, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        asked.append((document, params))
        return [{"node": "one", "type": "Constant", "status": "hit", "tier": "memory", "changes": ()}]

    async with serving(tmp_path, explain=explain) as site:
        found = await site.json("POST", "/v1/explain", json={"document": DOCUMENT})
        assert found["nodes"][0] == {
            "node": "one",
            "type": "Constant",
            "status": "hit",
            "tier": "memory",
            "changes": [],
        }
        assert (json.loads(asked[0][0]), asked[0][1]) == (DOCUMENT, {})
        await site.problem("POST", "/v1/explain", 422, "invalid-workflow", json={"document": {}})
        assert len(asked) == 1


async def test_routes_without_their_part_are_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.problem("POST", "/v1/explain", 404, "not-found", json={"document": DOCUMENT})
        await site.problem("GET", "/v1/models", 404, "not-found")
        paths = (await site.json("GET", "/v1/openapi.json"))["paths"]
        assert not {"/v1/explain", "/v1/models"} & set(paths)


async def test_node_types_are_told_with_their_inputs(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        async with await site.ask("GET", "/v1/nodes") as response:
            items = (await response.json())["items"]
            etag = response.headers["ETag"]
        assert [item["type"] for item in items] == list(REGISTRY)
        constant, add, _, picture, _ = items
        assert (constant["inputs"]["value"]["default"], constant["inputs"]["value"]["literal"]) == (
            1.0,
            {"type": "number"},
        )
        assert (add["inputs"]["b"]["required"], add["inputs"]["b"]["literal"], add["outputs"]) == (
            False,
            None,
            {"number": "Number"},
        )
        assert picture["inputs"]["file"]["file"] == "image"
        async with await site.ask("GET", "/v1/nodes", headers={"If-None-Match": etag}) as response:
            assert response.status == 304


async def test_models_are_told_without_their_paths(tmp_path: Path) -> None:
    async def models() -> Sequence[Mapping[str, Any]]:
        return [{"name": "emoji", "kind": "checkpoint", "family": "sd1", "problem": None, "path": "/secret/emoji"}]

    async with serving(tmp_path, models=models) as site:
        found = await site.json("GET", "/v1/models")
        assert found["items"] == [{"name": "emoji", "kind": "checkpoint", "family": "sd1", "problem": None}]


async def test_the_queue_is_paused_and_resumed(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.submit()
        assert (await site.json("POST", "/v1/queue/pause"))["paused"]
        assert await site.store.claim("w0") is None
        await site.submit()
        queue = await site.json("GET", "/v1/queue")
        assert (queue["paused"], queue["jobs"]["queued"], queue["draining"]) == (True, 2, False)
        assert not (await site.json("POST", "/v1/queue/resume"))["paused"]
        assert await site.store.claim("w0") is not None
        user = await site.new_token("submit")
        await user.problem("POST", "/v1/queue/pause", 403, "missing-scope")
        assert (await user.json("GET", "/v1/queue"))["jobs"]["queued"] == 0


async def test_a_server_is_ready_once_a_worker_is_warm(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert await site.json("GET", "/healthz") == {"status": "ok"}
        assert (await site.json("GET", "/readyz"))["ready"]
        site.supervisor.ready = False
        assert await site.json("GET", "/readyz", 503) == {"ready": False, "reason": "no worker is warm yet"}
        site.supervisor.ready = True
        site.parts.intake.stop()
        assert (await site.json("GET", "/readyz", 503))["reason"] == "the server is shutting down"
        assert await site.json("GET", "/healthz") == {"status": "ok"}


async def test_health_needs_no_token(tmp_path: Path) -> None:
    async with serving(tmp_path, Settings(open_on_loopback=False)) as site:
        for path in ("/healthz", "/readyz", "/v1/docs", "/v1/openapi.json"):
            async with await site.ask("GET", path) as response:
                assert response.status == 200
        await site.problem("GET", "/metrics", 401, "no-token")


async def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        site.supervisor.workers.append(FakeWorker("w1", "starting", memory={}))
        id = (await site.submit())["id"]
        await site.store.claim("w0")
        await site.tell(id, JobEvent(EventKind.NODE_CACHED, {"node": "one", "tier": "disk"}))
        async with await site.ask("GET", "/metrics") as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            lines = (await response.text()).splitlines()
        assert 'latentgraph_jobs{state="running"} 1' in lines
        assert 'latentgraph_cache_hits_total{tier="disk"} 1' in lines
        assert "latentgraph_queue_wait_seconds_count 1" in lines
        assert 'latentgraph_memory_bytes{worker="w0",owner="weights"} 400' in lines
        assert 'latentgraph_worker_ready{worker="w1"} 0' in lines
        assert 'latentgraph_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1' in lines
        assert not [line for line in lines if id in line]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/jobs/", "/favicon.ico", "/v2/jobs"])
async def test_what_is_not_there_is_answered_with_a_problem(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as site, await site.ask("GET", path) as response:
        assert response.status == 404


async def test_a_method_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for method in ("PATCH", "PUT", "TRACE"):
            async with await site.ask(method, "/v1/jobs") as response:
                assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, POST")
                assert (await response.json(content_type=None))["code"] == "method-not-allowed"

"""The live server against its own OpenAPI, by schemathesis: nothing that the document allows, and nothing that it forbids, is
answered with a 5xx, and every answer is one that the document names, with the headers and the body that it names.

LATENTGRAPH_SCHEMA sets how many requests are made to each operation, of each kind; the long run has 200.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import CHECKS

from latentgraph.server.api.settings import Settings

from .live_fakes import Live, aside, living
from .web_fakes import DOCUMENT, YAML, png

EXAMPLES = int(os.environ.get("LATENTGRAPH_SCHEMA", "8"))

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "negative_data_rejection",
)
NOT_CHECKED = {("/v1/validate", "negative_data_rejection")}
"""It says of a wrong document that it is wrong, which is no refusal."""


async def test_the_live_server_does_what_its_openapi_says(tmp_path: Path) -> None:
    bounds = Settings(longest_wait_seconds=0.01, heartbeat_seconds=0.01, workflows=20, requests_per_minute=10**9)
    async with living(tmp_path, bounds, explain=nothing, models=nothing) as live:
        names = await known(live)
        assert await aside(try_all, live.url, names) >= 25


def try_all(url: str, names: Mapping[str, str]) -> int:
    """Tries every operation of a server; returns how many there are. Raises what the first wrong answer is."""
    schema = openapi.from_url(f"{url}/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        for mode in GenerationMode:
            _try(operation, mode, names, url)
    return len(operations)


def _try(operation: Any, mode: GenerationMode, names: Mapping[str, str], url: str) -> None:
    names_of_checks = [one for one in CHECKED if (operation.path, one) not in NOT_CHECKED]
    checks = CHECKS.get_by_names(names_of_checks)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), named=st.booleans())
    def ask(case: Case, named: bool) -> None:
        if named or operation.path.endswith("/events"):  # which go on until the job has ended
            case.path_parameters |= {name: names[name] for name in case.path_parameters if name in names}
        response = case.call(base_url=url, session=session, timeout=60)
        if response.status_code not in (414, 431):  # longer than any address or header may be, and refused for that
            case.validate_response(response, checks=checks)

    with requests.Session() as session:
        if mode is GenerationMode.POSITIVE:
            ask()
        else:
            with contextlib.suppress(Unsatisfiable):  # it takes nothing that could be wrong
                ask()


async def nothing(*arguments: Any) -> list[dict[str, Any]]:
    return []


async def known(live: Live) -> dict[str, str]:
    """Returns names that mean something in paths."""
    await live.store.workflows.put("picture", YAML, "application/yaml")
    with live.client() as client:
        job = await aside(client.submit, DOCUMENT)
    await live.succeed(await live.claim(), {"picture": {"a.png": png()}}, number=3)
    return {"id": job.id, "name": "picture"}

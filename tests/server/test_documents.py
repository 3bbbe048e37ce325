"""Documents are read and checked in threads: a few at once, in bounded time, and those that come again only once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from latentgraph.graph import InvalidWorkflow
from latentgraph.server.api import documents
from latentgraph.server.api.documents import Checker
from latentgraph.server.api.problems import Refusal
from latentgraph.server.api.reading import canonical
from latentgraph.server.api.settings import Settings
from latentgraph.server.files.resolving import ServerResolver
from latentgraph.server.jobs.records import StoredWorkflow

from .web_fakes import DOCUMENT, REGISTRY, YAML


@pytest.fixture
def checker_of(tmp_path: Path) -> Callable[[Settings], Checker]:
    return lambda settings: Checker(REGISTRY, ServerResolver(tmp_path), settings)


async def test_a_stored_workflow_is_read_once(checker_of: Callable[[Settings], Checker]) -> None:
    checker = checker_of(Settings())
    stored = StoredWorkflow("numbers", YAML, "application/yaml", "ab" * 32, 0)
    first = await checker.load_stored(stored)
    assert await checker.load_stored(replace(stored, name="other")) is first
    assert await checker.load_stored(replace(stored, sha256="cd" * 32)) is not first
    assert (await checker.load(dict(DOCUMENT))).text == canonical(DOCUMENT)
    checker.close()


async def test_checks_are_bounded_in_time_and_number(checker_of: Callable[[Settings], Checker]) -> None:
    checker = checker_of(Settings(check_seconds=0.05, checks_at_once=1, checks_waiting=2))
    stop = threading.Event()
    slow = [asyncio.create_task(checker.in_thread(stop.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal, match="wait to be checked") as caught:
        await checker.in_thread(stop.wait)
    assert caught.value.status == 429
    results = await asyncio.gather(*slow, return_exceptions=True)
    codes = [result.code for result in results if isinstance(result, Refusal)]
    assert codes == ["check-too-long", "too-many-checks"], "the second one was never begun"
    stop.set()
    assert await checker.in_thread(lambda: 3) == 3
    checker.close()


async def test_problems_that_a_run_may_mend_are_warnings_where_they_are_forgiven(
    checker_of: Callable[[Settings], Checker],
) -> None:
    checker = checker_of(Settings())
    loaded = await checker.load(YAML)
    with pytest.raises(InvalidWorkflow):
        await checker.check(loaded, {}, ())
    checked = await checker.check(loaded, {}, (), forgive=documents.LATER)
    assert [(one.code, one.severity) for one in checked.warnings] == [("missing-param", "warning")]
    assert (checked.outputs, checked.nodes) == (("number",), 1)
    checker.close()

"""Documents as they come over HTTP: both parsers agree, and every bound holds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentgraph.graph import InvalidWorkflow, Limits
from latentgraph.server import documents
from latentgraph.server.documents import Checker, canonical, read_document, read_json
from latentgraph.server.problems import Refusal
from latentgraph.server.resolving import ServerResolver
from latentgraph.server.settings import Settings

from .web_fakes import DOCUMENT, REGISTRY, YAML

LIMITS = Limits(bytes=100_000, depth=8, values=10_000)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(TREES)
def test_a_tree_that_is_written_is_read_again(tree: Any) -> None:
    text = canonical(tree)
    assert text.isascii()
    assert read_json(text.encode(), replace(LIMITS, depth=40)) == tree


@settings(deadline=None, max_examples=60)
@given(TREES, st.booleans(), st.integers(0, 8))
def test_what_the_fast_parser_takes_the_slow_one_takes_alike(tree: Any, ascii_only: bool, depth: int) -> None:
    """What is refused by one is refused by both, so that no document means one thing here and another there."""
    text, limits = json.dumps(tree, ensure_ascii=ascii_only), replace(LIMITS, depth=depth)
    try:
        slow = documents._read_slowly(text, "json", limits, documents.Problems())
    except InvalidWorkflow:
        with pytest.raises(InvalidWorkflow):
            read_json(text, limits)
        return
    assert read_json(text, limits) == slow


STRICT = {
    '{"a": 1, "a": 2}': "duplicate-key",
    '{"a": {"b": 1, "c": 2, "b": 3}}': "duplicate-key",
    "NaN": "syntax",
    "[-Infinity]": "syntax",
    "1e999": "wrong-type",
    '"\\ud800"': "syntax",
    '"\\udead"': "syntax",
    "[" * 9 + "]" * 9: "limit-depth",
    "[" * 100_000: "limit-bytes" if LIMITS.bytes < 100_000 else "limit-depth",
    '"' + "x" * 100_000 + '"': "limit-bytes",
    "9" * 4_200: "syntax",
    "9" * 5_000: "syntax",
    "": "syntax",
    "{} {}": "syntax",
}


@pytest.mark.parametrize("text", STRICT)
def test_json_that_parsers_disagree_about_is_refused(text: str) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        read_json(text.encode(), LIMITS)
    assert caught.value.problems[0].code == STRICT[text]


def test_aliases_may_not_make_a_document_larger_than_its_bound() -> None:
    text = "a: &a " + "x" * 9_000 + "\nb: [" + ", ".join(["*a"] * 20) + "]"
    with pytest.raises(InvalidWorkflow, match="once its aliases are written out"):
        read_document(text, "yaml", LIMITS)


def test_what_comes_of_a_text_is_written_as_it_stood() -> None:
    document = read_document('{"latentgraph": 1, "nodes": {"b": {"type": "X"}, "a": {"type": "Y"}}}', "json", LIMITS)
    assert canonical(document.tree) == '{"latentgraph":1,"nodes":{"b":{"type":"X"},"a":{"type":"Y"}}}'


@pytest.fixture
def checker_of(tmp_path: Path) -> Callable[[Settings], Checker]:
    return lambda settings: Checker(REGISTRY, ServerResolver(tmp_path), settings)


async def test_texts_that_come_again_are_read_once(checker_of: Callable[[Settings], Checker]) -> None:
    checker = checker_of(Settings())
    first = await checker.load(YAML)
    assert await checker.load(YAML) is first
    assert await checker.load(YAML, "yaml") is first
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

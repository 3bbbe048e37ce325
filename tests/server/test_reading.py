"""Texts to trees: both parsers agree, and every bound holds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentgraph.graph import InvalidWorkflow, Limits
from latentgraph.graph.report import Problems
from latentgraph.server.api import reading
from latentgraph.server.api.reading import canonical, read_document, read_json

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
        slow = reading._read_slowly(text, "json", limits, Problems())
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

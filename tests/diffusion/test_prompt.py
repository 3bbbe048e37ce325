"""The weight grammar against a plain recursive reading of its rules, and on prompts made to break a parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentgraph.diffusion.text.prompt import WeightedText, parse_weights


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a cat", [("a cat", 1.0)]),
        ("a (cat:1.3) sat", [("a ", 1.0), ("cat", 1.3), (" sat", 1.0)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("(a (b:1.5) c:0.8)", [("a ", 0.8), ("b", 1.5), (" c", 0.8)]),
        ("(a:-0.5)(b:0)", [("a", -0.5), ("b", 0.0)]),
        ("(:1.3)", [(":1.3", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("()", []),
        ("[a]", [("[a]", 1.0)]),
        (r"\(a\) (b\):1.2)", [("(a) ", 1.0), ("b)", 1.2)]),
        ("(unclosed (x", [("(unclosed (x", 1.0)]),
        ("((a)", [("(a", 1.1)]),
        ("x) y (z:1.5)", [("x) y (z:1.5)", 1.0)]),
        ("x) ((z:1.5) (y:2)", [("x) (", 1.0), ("z", 1.5), (" ", 1.0), ("y", 2.0)]),
    ],
)
def test_brackets_give_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parse_weights(prompt) == [WeightedText(*item) for item in expected]


@pytest.mark.parametrize("number", ["inf", "nan", "-infinity", "1e999"])
def test_a_number_that_is_not_finite_is_text(number: str) -> None:
    assert parse_weights(f"(a:{number})") == [(f"a:{number}", 1.1)]


@given(st.text(alphabet="()\\:a1. ", max_size=40))
def test_the_parser_agrees_with_a_recursive_reading_of_the_rules(prompt: str) -> None:
    escaped = prompt.replace("\\)", "\0").replace("\\(", "\1")
    expected = [(text.replace("\0", ")").replace("\1", "("), weight) for text, weight in read(escaped, 1.0)]
    assert parse_weights(prompt) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 100_000,
        ")" * 100_000,
        "(" * 50_000 + ")" * 50_000,
        "(a" * 50_000 + ")" * 49_999,
        "(a:" * 33_000 + "1)" * 33_000,
    ],
)
def test_deep_nesting_does_not_crash(prompt: str) -> None:
    assert "".join(text for text, _ in parse_weights(prompt)).count("(") <= prompt.count("(")


def read(text: str, weight: float) -> list[tuple[str, float]]:
    """The rules read literally: split at brackets of depth 0, then look into each group."""
    read_items: list[tuple[str, float]] = []
    for item in split(text):
        if len(item) >= 2 and item[0] == "(" and item[-1] == ")":
            inner, colon, inner_weight = item[1:-1], item.rfind(":") - 1, weight * 1.1
            if colon > 0:
                try:
                    number = float(inner[colon + 1 :])
                except ValueError:
                    number = math.inf
                if math.isfinite(number):
                    inner, inner_weight = inner[:colon], number
            read_items += read(inner, inner_weight)
        else:
            read_items.append((item, weight))
    return read_items


def split(text: str) -> list[str]:
    items, item, depth = [], "", 0
    for character in text:
        if character == "(" and depth == 0 and item:
            items.append(item)
            item = ""
        item += character
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == ")" and depth == 0:
            items.append(item)
            item = ""
    return [*items, item] if item else items

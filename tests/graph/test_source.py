"""Texts: what is read, where it stands, and what is refused with which words. YAML and JSON are told apart by name alone."""

# ruff: noqa: E501 - messages stand as people read them

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from latentgraph.graph import InvalidWorkflow, Limits
from latentgraph.graph.problems import Mark
from latentgraph.graph.report import Problems
from latentgraph.graph.source import LocatedList, LocatedMap, key_mark, read_tree, value_mark

Syntax = Literal["yaml", "json"]


def read(text: str | bytes, syntax: Syntax = "yaml", **limits: int) -> Any:
    problems = Problems()
    tree = read_tree(text, syntax=syntax, file="f", problems=problems, limits=Limits(**limits))
    problems.raise_errors()
    return tree


def refused(text: str | bytes, syntax: Syntax = "yaml", **limits: int) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        read(text, syntax, **limits)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("+7", 7),
        ("007", 7),
        ("0o17", 15),
        ("0xff", 255),
        ("0b1", "0b1"),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("~", None),
        ("null", None),
        ("", None),
        ("True", True),
        ("false", False),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("9" * 5000, "9" * 5000),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_has_the_types_of_the_core_schema(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert isinstance(found, type(value))


def test_not_a_number_is_read_and_left_to_the_checks() -> None:
    assert read(".nan") != read(".nan")


def test_json_is_read_as_pythons_reader_does() -> None:
    texts = [
        "{}",
        "[]",
        ' [1, -2.5e3, "a\\u00e9\\ud83d\\ude00\\n", true, false, null, {"a": {"b": []}}] ',
        '"x"',
        "-0",
        "1E+2",
    ]
    for text in texts:
        assert read(text, "json") == json.loads(text)
    assert read('\ufeff{"a": 1}', "json") == {"a": 1}
    assert read(b'{"a": 1}', "json") == {"a": 1}


@pytest.mark.parametrize("syntax", ["yaml", "json"])
def test_places_are_remembered(syntax: Syntax) -> None:
    tree = read('{"a": 1,\n "b": [true,\n  {"c": "é", "d": 2}]}', syntax)
    assert isinstance(tree, LocatedMap)
    assert isinstance(tree["b"], LocatedList)
    assert (key_mark(tree, "a"), value_mark(tree, "a")) == (Mark(1, 2), Mark(1, 7))
    assert value_mark(tree["b"], 1) == Mark(3, 3)
    assert value_mark(tree["b"][1], "d") == Mark(3, 19)
    assert (value_mark(tree, "x"), value_mark({}, "a"), value_mark(tree["b"], 7), key_mark([], "a")) == (None,) * 4


def test_aliases_are_read_and_merge_keys_are_keys_like_any_other() -> None:
    assert read("a: &x [1, 2]\nb: *x\nc: &y 3\nd: *y") == {"a": [1, 2], "b": [1, 2], "c": 3, "d": 3}
    assert read("<<: {a: 1}") == {"<<": {"a": 1}}


def test_keys_are_texts() -> None:
    assert read("1: a\ntrue: b\nnull: c\n1.5: d") == {"1": "a", "true": "b", "null": "c", "1.5": "d"}


YAML_REFUSED = {
    "a: [1": "f:2:1: error: this is not YAML: did not find expected ',' or ']' (while parsing a flow sequence that begins at line 1, column 4). [syntax]",
    "a:\n\tb: 1": "f:2:1: error: a tab is used as indentation; YAML takes spaces only. [syntax]",
    "a: !!python/object:os.system x": "f:1:4: error: the tag 'tag:yaml.org,2002:python/object:os.system' is not read; "
    "write the plain value. [syntax]",
    "a: !x 1": "f:1:4: error: the tag '!x' is not read; write the plain value. [syntax]",
    "a: 1\n---\nb: 2": "f:2:1: error: the file holds several YAML documents; a workflow is one. [syntax]",
    "a: *x": "f:1:4: error: the alias *x has no anchor before it. [syntax]",
    "a: &a [*a]": "f:1:8: error: the alias *a stands inside of what it stands for. [syntax]",
    "? [a]\n: 1": "f:1:3: error: a key is a map or a list; keys are plain words. [syntax]",
    "a: 1\nb: 2\na: 3": "f:3:1: error: the key 'a' stands twice; it stood first at line 1, column 1. [duplicate-key]",
    "a: \x07": "f: error: this is not YAML: unacceptable character #x0007: control characters are not allowed. [syntax]",
}


@pytest.mark.parametrize("text", YAML_REFUSED)
def test_yaml_that_is_refused_says_where_and_why(text: str) -> None:
    assert refused(text) == YAML_REFUSED[text]


JSON_REFUSED = {
    "": "f:1:1: error: this is not JSON: the text ends where a value was expected. [syntax]",
    '{"a": NaN}': "f:1:7: error: this is not JSON: found 'NaN}' where a value was expected; JSON has no such number. [syntax]",
    "[Infinity]": "f:1:2: error: this is not JSON: found 'Infinity]' where a value was expected; JSON has no such number. [syntax]",
    "[1,]": "f:1:4: error: this is not JSON: found ']' where a value was expected; remove the comma before it. [syntax]",
    '{"a": 1,}': "f:1:9: error: this is not JSON: found '}' where a key in double quotes was expected; remove the comma before it. [syntax]",
    "{a: 1}": "f:1:2: error: this is not JSON: found 'a: 1}' where a key in double quotes was expected. [syntax]",
    '{"a" 1}': "f:1:6: error: this is not JSON: found '1}' where ':' was expected. [syntax]",
    "[1 2]": "f:1:4: error: this is not JSON: found '2]' where ',' or ']' was expected. [syntax]",
    "[1]\n x": "f:2:2: error: this is not JSON: found 'x' where the end was expected. [syntax]",
    "[01]": "f:1:3: error: this is not JSON: found '1]' where ',' or ']' was expected. [syntax]",
    '["a': "f:1:2: error: this is not JSON: Unterminated string starting at. [syntax]",
    '"\\ud800"': "f:1:1: error: this is not JSON: half a surrogate pair stands for no character. [syntax]",
    "1" * 5000: f"f:1:1: error: this is not JSON: found '{'1' * 12}' where a value was expected. [syntax]",
    '{"a": 1,\n "a": 2}': "f:2:2: error: the key 'a' stands twice; it stood first at line 1, column 2. [duplicate-key]",
}


@pytest.mark.parametrize("text", JSON_REFUSED)
def test_json_that_is_refused_says_where_and_why(text: str) -> None:
    assert refused(text, "json") == JSON_REFUSED[text]


def test_a_duplicate_key_keeps_the_first_value() -> None:
    problems = Problems()
    assert read_tree("a: 1\na: 2", syntax="yaml", file=None, problems=problems) == {"a": 1}
    assert [problem.code for problem in problems] == ["duplicate-key"]


def test_text_that_is_not_utf8_says_which_byte_and_where() -> None:
    words = "f:2:4: error: the text is not UTF-8: byte 0xe9; save the file as UTF-8. [syntax]"
    assert refused("a: 1\nb: é".encode("latin-1")) == words
    assert "is not UTF-8" in refused("a: 1".encode("utf-16"))
    assert "half a surrogate pair" in refused("a: \ud800")


def test_each_limit_has_its_own_words() -> None:
    assert refused("a: 1234567", bytes=5) == "f: error: the document has 10 bytes; at most 5 are read. [limit-bytes]"
    assert refused("[[[1]]]", depth=2) == "f:1:3: error: the document is nested deeper than 2 levels. [limit-depth]"
    assert refused("[1, 2, 3, 4]", values=3) == (
        "f:1:8: error: the document holds more than 3 values once its aliases are written out. [limit-values]"
    )
    assert (
        refused("[&a 1, *a, *a]", aliases=1) == "f:1:12: error: the document uses more than 1 aliases. [limit-aliases]"
    )


def test_a_document_at_its_limits_is_read() -> None:
    assert read("[[1]]", depth=2, bytes=5) == [[1]]
    assert read("[[1]]", "json", depth=2, bytes=5) == [[1]]


def test_a_bomb_of_aliases_is_refused_before_it_is_built() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "[limit-values]" in refused("\n".join(lines))


def test_depth_is_counted_through_aliases() -> None:
    """Each line nests the one before: a thousand lines would be a thousand levels."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 50))]
    assert "f:32:" in refused("\n".join(lines))
    assert "[limit-depth]" in refused("\n".join(lines))
    assert read("a: &a [[1]]\nb: *a", depth=3) == {"a": [[1]], "b": [[1]]}
    assert "[limit-depth]" in refused("a: &a [[1]]\nb: [*a]", depth=3)


@pytest.mark.parametrize("syntax", ["yaml", "json"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_million_levels_are_refused_at_once(syntax: Syntax, opening: str) -> None:
    assert "[limit-depth]" in refused(opening * 500_000, syntax)

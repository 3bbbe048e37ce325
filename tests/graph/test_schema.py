"""The JSON Schema: what it says of documents, tried with a validator small enough to read."""

# ruff: noqa: E501 - a document a line

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from latentgraph.graph import json_schema

from .fakes import REGISTRY

SCHEMA = json_schema(REGISTRY)
KINDS: Mapping[str, Any] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
UNCHECKED = {"$schema", "$defs", "title", "description", "default", "propertyNames"}


def valid(value: Any, schema: Any) -> bool:
    """Returns whether a value is valid under the part of JSON Schema that the schema uses."""
    if isinstance(schema, bool):
        return schema
    return all(holds(key, value, schema) for key in schema)


def holds(key: str, value: Any, schema: Mapping[str, Any]) -> bool:
    rule = schema[key]
    fields = value if isinstance(value, dict) else {}
    checks: dict[str, Any] = {
        "type": lambda: KINDS[rule](value),
        "const": lambda: value == rule and type(value) is type(rule),
        "enum": lambda: value in rule,
        "pattern": lambda: not isinstance(value, str) or re.search(rule, value) is not None,
        "required": lambda: not isinstance(value, dict) or set(rule) <= set(fields),
        "properties": lambda: all(valid(fields[name], part) for name, part in rule.items() if name in fields),
        "additionalProperties": lambda: all(
            valid(item, rule) for name, item in fields.items() if name not in schema.get("properties", {})
        ),
        "anyOf": lambda: any(valid(value, part) for part in rule),
        "allOf": lambda: all(valid(value, part) for part in rule),
        "not": lambda: not valid(value, rule),
        "if": lambda: not valid(value, rule) or valid(value, schema["then"]),
        "then": lambda: True,
        "$ref": lambda: valid(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")]),
        "items": lambda: not isinstance(value, list) or all(valid(item, rule) for item in value),
        "minItems": lambda: not isinstance(value, list) or len(value) >= rule,
        "minProperties": lambda: len(fields) >= rule or not isinstance(value, dict),
        "minimum": lambda: not KINDS["number"](value) or value >= rule,
        "maximum": lambda: not KINDS["number"](value) or value <= rule,
        "exclusiveMinimum": lambda: not KINDS["number"](value) or value > rule,
        "multipleOf": lambda: not KINDS["number"](value) or value % rule == 0,
    }
    return True if key in UNCHECKED else bool(checks[key]())


def unnamed(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Any]:
    """Returns the values of the fields that a schema does not name."""
    return [item for name, item in fields.items() if name not in schema.get("properties", {})]


def document(**node: Any) -> dict[str, Any]:
    return {"latentgraph": 1, "nodes": {"n": node}, "outputs": {"x": "$n"}}


@pytest.mark.parametrize(
    "tree",
    [
        document(type="Constant"),
        document(type="Constant", value=2),
        document(type="Constant", value="$params.v"),
        document(type="Add", a="$b", plus=1.5),
        document(type="Add", foreach={"a": "$b"}),
        document(type="Add", a="$b", b=None),
        document(type="Sum", items=["$a", "$b.number"]),
        document(type="Sum", items="$a"),
        document(type="Mean", values=["$a", "$b"]),
        document(type="Kinds", word="${params.p} of", mode="fast", maybe=None, sizes=[1]),
        document(type="Switch", select="a", cases={"a": "$b"}),
        document(type="FileLength", file="a.txt"),
        document(type="./part.yaml", anything=3),
        {"latentgraph": 1, "nodes": {"n": {"type": "Constant"}}, "params": {"a": 1, "b": {"type": "Number"}, "c": {"type": "text_file"}}},
        {"latentgraph": 1, "nodes": {"n": {"type": "Constant"}}, "outputs": {"x": ["$n", "$n"]}},
    ],
)  # fmt: skip
def test_right_documents_are_valid(tree: dict[str, Any]) -> None:
    assert valid(tree, SCHEMA)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"latentgraph": 1},
        {"latentgraph": 2, "nodes": {"n": {"type": "Constant"}}},
        {"latentgraph": 1, "nodes": {}},
        {"latentgraph": 1, "nodes": {"n": {"type": "Constant"}}, "node": {}},
        {"latentgraph": 1, "nodes": {"n": {"type": "Constant"}}, "outputs": {"x": "n"}},
        {"latentgraph": 1, "nodes": {"n": {"type": "Constant"}}, "params": {"p": {"type": "strin"}}},
        document(),
        document(type="Constnt"),
        document(type="Add"),
        document(type="Add", a="b"),
        document(type="Add", a=3),
        document(type="Add", a="$b", plus=-1),
        document(type="Add", a="$b", pluss=1),
        document(type="Kinds", mode="quick"),
        document(type="Kinds", count=11),
        document(type="Sum", items=[3]),
        document(type="Switch", select="a", cases=["$b"]),
    ],
)
def test_wrong_documents_are_not(tree: dict[str, Any]) -> None:
    assert not valid(tree, SCHEMA)


def test_the_schema_is_plain_json_and_tells_every_node() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert set(SCHEMA["$defs"]) >= {*REGISTRY, "Switch"}
    assert SCHEMA["$defs"]["Add"]["description"] == "Add numbers."
    plus = SCHEMA["$defs"]["Add"]["properties"]["plus"]
    assert (plus["default"], plus["description"]) == (0.0, "What else to add.")

"""The language as a JSON Schema, made from the registered nodes, so that editors complete and check workflows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .document import VERSION
from .node import Node, NodeSpec
from .ports import InputPort
from .references import NAME
from .registry import Registry
from .switch import Switch

_NAME = NAME.pattern.replace(r"\Z", "$")
_LINK = {"type": "string", "pattern": r"^\$[A-Za-z_]", "description": "A link: $node, $node.port or $params.name."}
_LINKS = {"anyOf": [_LINK, {"type": "array", "items": _LINK}]}
_TEXT = {"type": "string"}


def json_schema(registry: Registry) -> dict[str, Any]:
    """Returns a JSON Schema (draft 2020-12) of documents that use the registry's nodes."""
    classes: dict[str, type[Node]] = {**registry, Switch.spec.type: Switch}
    named = {"propertyNames": {"pattern": f"^{_NAME}"}}
    definitions: dict[str, Any] = {name: _node(cls.spec) for name, cls in classes.items()}
    definitions["subgraph"] = {
        "description": "Another document as a node: its params are inputs, its outputs are ports.",
        "properties": {"type": {"type": "string", "pattern": r"(/|\.(yaml|yml|json)$)"}},
    }
    branches = [
        {"if": {"properties": {"type": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}} for name in classes
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "latentgraph workflow",
        "type": "object",
        "required": ["latentgraph", "nodes"],
        "additionalProperties": False,
        "properties": {
            "latentgraph": {"const": VERSION, "description": "The version of the language."},
            "name": {**_TEXT, "description": "What the workflow is called; the file's name if absent."},
            "description": {**_TEXT, "description": "What it is for."},
            "params": {
                "type": "object",
                "description": "Values that a run may set: `name: default`, or a map with type, default and constraints.",
                "additionalProperties": {"anyOf": [{"not": {"type": "object"}}, _param(registry)]},
                **named,
            },
            "nodes": {
                "type": "object",
                "description": "The nodes by id.",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {
                        "type": {
                            "anyOf": [
                                {"enum": sorted(classes)},
                                {"type": "string", "pattern": r"(/|\.(yaml|yml|json)$)"},
                            ]
                        },
                        "foreach": {
                            "type": "object",
                            "description": "One copy of the node for each item: {input: list}, {zip: {...}}, {product: {...}}.",
                        },
                    },
                    "allOf": branches,
                },
                **named,
            },
            "outputs": {
                "type": "object",
                "description": "What the run is for: links by name.",
                "additionalProperties": _LINKS,
                **named,
            },
            "parts": {
                "type": "object",
                "description": "Documents that this one brings along, by the paths that its nodes name them by.",
                "additionalProperties": {"$ref": "#"},
            },
        },
        "$defs": definitions,
    }


def _node(spec: NodeSpec) -> dict[str, Any]:
    properties: dict[str, Any] = {"type": {"const": spec.type}, "foreach": True}
    properties.update({name: _input(port) for name, port in spec.inputs.items()})
    required = sorted(name for name, port in spec.inputs.items() if port.required)
    return {
        "description": spec.doc,
        "properties": properties,
        "anyOf": [{"required": required}, {"required": ["foreach"]}],  # a loop may give what is required
        "additionalProperties": False,
    }


def _input(port: InputPort) -> Mapping[str, Any]:
    words = {"description": port.description} if port.description else {}
    if port.literal:
        default = {} if port.required else {"default": None if port.default is None else _plain(port.default)}
        links = _LINKS if port.item_kinds else _LINK
        return {"anyOf": [dict(port.json_schema), links], **words, **default}
    if port.shape == "map":
        return {"type": "object", "additionalProperties": _LINK, **words}
    one = _LINKS if port.shape == "list" else _LINK
    return {"anyOf": [one, {"type": "null"}], **words} if port.optional else {**one, **words}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)


def _param(registry: Registry) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "seed", "list"]
    kinds += [*registry.file_types, *sorted(registry.value_types)]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "type": {"enum": kinds},
            "default": True,
            "description": _TEXT,
            "min": {"type": "number"},
            "max": {"type": "number"},
            "multiple_of": {"type": "number", "exclusiveMinimum": 0},
            "choices": {"type": "array", "minItems": 1},
        },
    }

"""Documents: the outer shape, files on disk, and that YAML and JSON say the same."""

# ruff: noqa: E501 - messages stand as people read them

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentgraph.graph import (
    InvalidWorkflow,
    build_graph,
    cache_keys,
    document_from_tree,
    load_document,
    parse_document,
)
from latentgraph.graph.fingerprints import Fingerprints

from .fakes import REGISTRY


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_document(text).problems]


SHAPES = {
    "nodes: {a: {type: X}}": "<document>:1:1: error: the document does not state its version; begin it with 'latentgraph: 1'. "
    "[wrong-version]",
    "latentgraph: 2\nnodes: {a: {type: X}}": "<document>:1:14: error: the document has version 2; this package reads version 1; a "
    "newer latentgraph may read it. [wrong-version]",
    "latentgraph: true\nnodes: {a: {type: X}}": "<document>:1:14: error: the document has version true; this package reads "
    "version 1. [wrong-version]",
    "latentgraph: 1": "<document>:1:1: error: 'nodes' is missing; expected a map with at least one node. [wrong-type]",
    "latentgraph: 1\nnodes: {}": "<document>:2:8: error: 'nodes' is {}; expected a map with at least one node. [wrong-type]",
    "latentgraph: 1\nnodes: [a]": "<document>:2:8: error: 'nodes' is [\"a\"]; expected a map with at least one node. [wrong-type]",
    "latentgraph: 1\nnodes: {a: {type: X}}\noutputs: 3": "<document>:3:10: error: 'outputs' is 3; expected a map of outputs by "
    "name. [wrong-type]",
    "latentgraph: 1\nnodes: {a: {type: X}}\nname: 3": "<document>:3:7: error: 'name' is 3; expected text. [wrong-type]",
    "latentgraph: 1\nnodes: {a: {type: X}}\noutput: {}": "<document>:3:1: error: the document has the unknown key 'output'; known: "
    "latentgraph, name, description, params, nodes, outputs, parts. Did you mean 'outputs'? [unknown-key]",
    "latentgraph: 1\nnodes: {a: {type: 3}}": "<document>:2:9: error: node 'a' has the type 3; expected the name of a node type, or "
    "a path to a document such as ./part.yaml. [wrong-type]",
}  # fmt: skip


@pytest.mark.parametrize("text", SHAPES)
def test_a_wrong_shape_says_what_was_expected(text: str) -> None:
    assert problems(text) == [SHAPES[text]]


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("[1]", "[1]"), ("text", '"text"')])
def test_a_document_is_a_map(text: str, found: str) -> None:
    said = f"<document>:1:1: error: a document is a map with 'latentgraph: 1' and 'nodes'; found {found}. [wrong-type]"
    assert problems(text) == [said]


def test_a_document_has_a_name_a_description_and_its_parts() -> None:
    document = parse_document(
        "latentgraph: 1\nname: n\ndescription: d\nparams: {p: 1}\nnodes: {a: {type: X, b: 2}}\noutputs: {x: $a}"
    )
    assert (document.name, document.description, list(document.params), document.outputs) == (
        "n",
        "d",
        ["p"],
        {"x": "$a"},
    )
    node = document.nodes["a"]
    assert (node.id, node.type, dict(node.inputs), node.foreach) == ("a", "X", {"b": 2}, None)


def test_a_document_without_a_name_is_called_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sunset.yaml"
    path.write_text("latentgraph: 1\nnodes: {a: {type: Constant}}")
    assert load_document(path).name == "sunset"
    assert parse_document("latentgraph: 1\nnodes: {a: {type: X}}").name == "workflow"


def test_a_file_that_is_not_there_has_a_near_name(tmp_path: Path) -> None:
    (tmp_path / "sunset.yaml").write_text("x")
    with pytest.raises(InvalidWorkflow) as caught:
        load_document(tmp_path / "sunst.yaml")
    (problem,) = caught.value.problems
    assert (problem.message, problem.near) == ("can't read the document: there is no such file.", "sunset.yaml")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "none/at/all.yaml"])
def test_whatever_a_file_is_called_reading_it_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidWorkflow, match="can't read the document: "):
        load_document(str(tmp_path / "x")[:-1] + name)


def test_yaml_json_and_a_tree_are_the_same_document(tmp_path: Path) -> None:
    tree = {
        "latentgraph": 1,
        "nodes": {"a": {"type": "Constant", "value": 2}, "b": {"type": "Add", "a": "$a"}},
        "outputs": {"x": "$b"},
    }
    (tmp_path / "w.json").write_text(json.dumps(tree))
    (tmp_path / "w.yaml").write_text(
        "latentgraph: 1\nnodes:\n  a: {value: 2, type: Constant}\n  b: {a: $a, type: Add}\noutputs: {x: $b}"
    )
    documents = [load_document(tmp_path / "w.json"), load_document(tmp_path / "w.yaml"), document_from_tree(tree)]
    keys = [cache_keys(build_graph(document, REGISTRY), Fingerprints()) for document in documents]
    assert keys[0] == keys[1] == keys[2]


def test_a_problem_is_json_for_programs() -> None:
    (problem,) = parse_document("latentgraph: 1\nnodes: {a: {type: X}}\noutput: {}").problems
    assert problem.as_json() == {
        "code": "unknown-key",
        "severity": "error",
        "message": "the document has the unknown key 'output'; known: latentgraph, name, description, params, nodes, outputs, parts.",
        "file": None,
        "line": 3,
        "column": 1,
        "node": None,
        "input": None,
        "near": "outputs",
        "param": None,
    }

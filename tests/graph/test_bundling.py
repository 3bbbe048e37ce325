"""Documents that bring along what they use: they do the same as with their files beside them, wherever they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentgraph.graph import (
    Document,
    Fingerprints,
    FolderResolver,
    InvalidWorkflow,
    build_graph,
    bundle,
    cache_keys,
    document_from_tree,
    load_document,
    parse_document,
)

from .fakes import REGISTRY, outputs_of, run_all

MAIN = """\
latentgraph: 1
nodes:
  one: {type: Constant, value: 1.5}
  p: {type: ./parts/outer.yaml, number: $one, foreach: {plus: [1, 2]}}
  sum: {type: Sum, items: $p}
outputs: {x: $sum}
"""
OUTER = """\
latentgraph: 1
params: {number: {type: Number}, plus: 1}
nodes:
  inner: {type: ./deep/inner.yaml, number: $params.number}
  again: {type: ../same.yaml, number: $inner}
  add: {type: Add, a: $again, plus: $params.plus}
outputs: {x: $add}
"""
INNER = """\
latentgraph: 1
params: {number: {type: Number}}
nodes: {add: {type: Add, a: $params.number, plus: 10}}
outputs: {x: $add}
"""


@pytest.fixture
def main(tmp_path: Path) -> Path:
    texts = {"main": MAIN, "parts/outer": OUTER, "parts/deep/inner": INNER, "same": INNER}
    for name, text in texts.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path / "main.yaml"


def sent(document: Document) -> Document:
    """The document as it arrives elsewhere."""
    return document_from_tree(json.loads(json.dumps(document.tree)))


def reports(document: Document) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document, REGISTRY)
    return [str(problem) for problem in caught.value.problems]


def test_a_bundled_document_has_the_same_nodes_keys_and_results_without_its_files(main: Path) -> None:
    document = load_document(main)
    keys = cache_keys(build_graph(document, REGISTRY), Fingerprints())
    bundled = bundle(document, FolderResolver())
    assert list(bundled.parts) == ["parts/outer.yaml", "parts/deep/inner.yaml", "same.yaml"]
    assert bundle(bundled, FolderResolver()) is bundled
    for path in (*main.parent.glob("parts/**/*.yaml"), main.parent / "same.yaml"):
        path.unlink()
    elsewhere = build_graph(sent(bundled), REGISTRY)
    assert dict(cache_keys(elsewhere, Fingerprints())) == keys
    assert outputs_of(run_all(elsewhere)) == {"x": (1.5 + 20 + 1) + (1.5 + 20 + 2)}


def test_a_part_knows_the_file_that_it_came_from(main: Path) -> None:
    part = bundle(load_document(main), FolderResolver()).parts["parts/deep/inner.yaml"]
    assert part.file == main.parent / "parts" / "deep" / "inner.yaml"
    assert part.label == str(part.file)


def test_what_a_used_document_brings_along_comes_with_it(main: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(bundle(load_document(main), FolderResolver()).tree), "utf-8")
    text = "latentgraph: 1\nnodes: {w: {type: ./sub/whole.json}}\noutputs: {x: $w}"
    (tmp_path / "sub").mkdir()
    whole.rename(tmp_path / "sub" / "whole.json")
    user = tmp_path / "user.yaml"
    user.write_text(text, "utf-8")
    assert outputs_of(run_all(build_graph(load_document(user), REGISTRY))) == {"x": 46.0}
    bundled = bundle(load_document(user), FolderResolver())
    assert [*bundled.parts] == [
        f"sub/{name}" for name in ("whole.json", "parts/outer.yaml", "parts/deep/inner.yaml")
    ] + ["sub/same.yaml"]
    assert outputs_of(run_all(build_graph(sent(bundled), REGISTRY))) == {"x": 46.0}


def test_a_document_that_is_not_there_is_named_where_it_is_used(main: Path) -> None:
    (main.parent / "parts" / "deep" / "inner.yaml").unlink()
    (main.parent / "same.yaml").write_text("latentgraph: 1\nnodes: [", "utf-8")
    with pytest.raises(InvalidWorkflow) as caught:
        bundle(load_document(main), FolderResolver())
    first, second = (str(problem) for problem in caught.value.problems)
    words = "error: node 'inner' (./deep/inner.yaml): there is no document './deep/inner.yaml'; looked in"
    assert first.startswith(f"{main.parent}/parts/outer.yaml:4:17: {words}")
    assert second.startswith(f"{main.parent}/same.yaml:3:1: error: this is not YAML")


def test_documents_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where each is found from the working folder, wherever the one that names it lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    for name in ("main.yaml", "parts/x.yaml"):
        text = "latentgraph: 1\nnodes: {p: {type: parts/x.yaml}}\noutputs: {x: $p}"
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(InvalidWorkflow, match="more than 100 documents"):
        bundle(load_document(Path("main.yaml")), FolderResolver())


def test_what_is_wrong_in_a_part_stands_where_it_is_written() -> None:
    text = """\
latentgraph: 1
nodes: {p: {type: ./part.yaml}}
outputs: {x: $p}
parts:
  part.yaml:
    latentgraph: 1
    nodes: {a: {type: Ad, a: 1}}
    outputs: {x: $a}
"""
    assert reports(parse_document(text, file=Path("main.yaml"))) == [
        "main.yaml:7:23: error: node 'p/a' (Ad): there is no such node type; `latentgraph nodes` lists what there is. "
        "Did you mean 'Add'? [unknown-type]"
    ]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("3", "4:8: error: 'parts' is 3; expected a map of documents by path, such as parts/hires.yaml. [wrong-type]"),
        (
            "{./part.yaml: {}}",
            "4:9: error: the part './part.yaml' is no path that is used; expected 'part.yaml'. [bad-name]",
        ),
        ("{part.yaml: 3}", "1:1: error: a document is a map with 'latentgraph: 1' and 'nodes'; found 3. [wrong-type]"),
        (
            "{part.yaml: {latentgraph: 1, nodes: {a: {type: ./part.yaml}}, outputs: {x: $a}}}",
            "4:55: error: node 'p/a' (./part.yaml): the document uses itself: main.yaml -> part.yaml -> part.yaml. [cycle]",
        ),
        (
            "{part.yaml: {latentgraph: 1, nodes: {a: {type: Constant}}, outputs: {x: $a}, parts: {}}}",
            "4:92: error: a document under 'parts' has 'parts' of its own; put them all under those of the outermost document. "
            "[wrong-type]",
        ),
    ],
)
def test_parts_that_are_none_are_refused(parts: str, words: str) -> None:
    text = f"latentgraph: 1\nnodes: {{p: {{type: ./part.yaml}}}}\noutputs: {{x: $p}}\nparts: {parts}\n"
    assert f"main.yaml:{words}" in reports(parse_document(text, file=Path("main.yaml")))


def test_a_document_that_is_not_among_the_parts_is_looked_for_beside_the_file(main: Path) -> None:
    bundled = bundle(load_document(main), FolderResolver())
    tree = {**bundled.tree, "parts": {"parts/outer.yaml": bundled.tree["parts"]["parts/outer.yaml"]}}
    assert outputs_of(run_all(build_graph(document_from_tree(tree, file=main), REGISTRY))) == {"x": 46.0}

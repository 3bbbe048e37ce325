"""Expansion: subgraphs, loops, loops over loops and lazy Switches, and the words for what is wrong with them."""

# ruff: noqa: E501 - messages stand as people read them

from __future__ import annotations

from pathlib import Path

import pytest

from latentgraph.graph import InvalidWorkflow, Limits, Link, build_graph, load_document

from .fakes import REGISTRY, Bench, graph_of, outputs_of, run_all

PART = """\
latentgraph: 1
params:
  number: {type: Number}
  plus: {type: number, default: 1, min: 0}
  file: {type: text_file, default: here.txt}
nodes:
  add: {type: Add, a: $params.number, plus: $params.plus}
  split: {type: Pair, a: $add}
  more: {type: Constant, foreach: {value: [10, 20]}}
outputs: {sum: $add, whole: $split.whole, many: $more}
"""


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "part.yaml").write_text(PART, "utf-8")
    return tmp_path / "main.yaml"


def main(part: Path, nodes: str) -> Path:
    part.write_text(f"latentgraph: 1\n{nodes}\n", "utf-8")
    return part


def problems(path: Path, nodes: str) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(load_document(main(path, nodes)), REGISTRY)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_a_document_is_a_node_whose_params_are_inputs_and_whose_outputs_are_ports(part: Path) -> None:
    path = main(
        part,
        "nodes:\n  one: {type: Constant, value: 1.5}\n  p: {type: ./part.yaml, number: $one, plus: 2}\n"
        "  after: {type: Sum, items: [$p.sum, $p.whole, $p.many]}\noutputs: {x: $after, many: $p.many}",
    )
    graph = build_graph(load_document(path), REGISTRY)
    assert list(graph.nodes) == ["one", "p/more[0]", "p/more[1]", "p/add", "p/split", "after"]
    assert outputs_of(run_all(graph)) == {"x": 3.5 + 3 + 30, "many": [10.0, 20.0]}


def test_a_subgraph_with_a_number_for_a_literal_and_one_by_link(part: Path) -> None:
    path = main(
        part,
        "nodes:\n  one: {type: Constant}\n  r: {type: Read, a: $one}\n  p: {type: part.yaml, number: $one, plus: $r}\n"
        "outputs: {x: $p.sum}",
    )
    assert outputs_of(run_all(build_graph(load_document(path), REGISTRY))) == {"x": 2.0}


def test_a_subgraph_can_be_looped(part: Path) -> None:
    path = main(
        part,
        "nodes:\n  one: {type: Constant}\n  p: {type: part.yaml, number: $one, foreach: {plus: [1, 2, 3]}}\n"
        "  s: {type: Sum, items: $p.sum}\n  all: {type: Sum, items: $p.many}\noutputs: {x: $s, y: $p.whole, z: $all}",
    )
    assert outputs_of(run_all(build_graph(load_document(path), REGISTRY))) == {
        "x": 9.0,
        "y": [2.0, 3.0, 4.0],
        "z": 90.0,
    }


def test_a_loop_may_stand_before_the_subgraph_that_it_goes_over(part: Path) -> None:
    path = main(
        part,
        "nodes:\n  each: {type: Add, foreach: {a: $p.many}, plus: 1}\n  p: {type: part.yaml, number: $one}\n"
        "  one: {type: Constant}\noutputs: {x: $each}",
    )
    assert outputs_of(run_all(build_graph(load_document(path), REGISTRY))) == {"x": [11.0, 21.0]}


def test_a_file_parameter_is_relative_to_the_document_that_names_the_file(tmp_path: Path) -> None:
    for folder, number in (("inner", "1"), ("outer", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n.txt").write_text(number)
    inner = "latentgraph: 1\nparams: {f: {type: text_file, default: n.txt}}\nnodes: {r: {type: FileLength, file: $params.f}}\noutputs: {x: $r}"
    (tmp_path / "inner" / "part.yaml").write_text(inner)
    outer = tmp_path / "outer" / "main.yaml"
    main(
        outer,
        "params: {mine: {type: text_file, default: n.txt}}\nnodes:\n  a: {type: ../inner/part.yaml}\n"
        "  b: {type: ../inner/part.yaml, f: n.txt}\n  c: {type: ../inner/part.yaml, f: $params.mine}\noutputs: {x: [$a, $b, $c]}",
    )
    assert outputs_of(run_all(build_graph(load_document(outer), REGISTRY))) == {"x": [1.0, 2.0, 2.0]}
    given = build_graph(load_document(outer), REGISTRY, params={"mine": "n.txt"}, params_base=tmp_path / "inner")
    assert outputs_of(run_all(given)) == {"x": [1.0, 2.0, 1.0]}


SUBGRAPH_REFUSED = {
    "p: {type: part.yaml}": "main.yaml:4:3: error: node 'p' (part.yaml): input 'number' is missing; it takes Number. [missing-input]",
    "p: {type: part.yaml, number: 3}": "main.yaml:4:32: error: node 'p' (part.yaml): input 'number' is 3; expected Number. [wrong-type]",
    "p: {type: part.yaml, number: $one, plus: -1}": "main.yaml:4:44: error: node 'p' (part.yaml): input 'plus' is -1; expected a "
    "number of at least 0. [out-of-range]",
    "p: {type: part.yaml, number: $one, pluss: 1}": "main.yaml:4:38: error: node 'p' (part.yaml): there is no input 'pluss'; known: "
    "file, number, plus. Did you mean 'plus'? [unknown-input]",
    "p: {type: part.yaml, number: $one}\n  q: {type: Add, a: $p}": "main.yaml:5:21: error: node 'q' (Add): input 'a': '$p' has several "
    "outputs (many, sum, whole); name one. [unknown-port]",
    "p: {type: part.yaml, number: $one}\n  q: {type: Add, a: $p.sun}": "main.yaml:5:21: error: node 'q' (Add): input 'a': '$p.sun' names "
    "no output; known: many, sum, whole. [unknown-port]",
    "p: {type: part.yaml, number: $one}\n  q: {type: Add, a: $p.many}": "main.yaml:5:21: error: node 'q' (Add): input 'a' takes Number, "
    "but '$p.many' gives a list of 2; loop over it with foreach: {a: $p.many}. [wrong-type]",
    "p: {type: ./main.yaml}": "main.yaml:4:13: error: node 'p' (./main.yaml): the document uses itself: main.yaml -> main.yaml. [cycle]",
    'p: {type: "a\\0.yaml"}': "main.yaml:4:13: error: node 'p' (a\x00.yaml): 'a\\x00.yaml' is no file name; "
    "give the name of a file of kind 'document'. [file-not-found]",
}  # fmt: skip


@pytest.mark.parametrize("node", SUBGRAPH_REFUSED)
def test_what_is_wrong_with_the_use_of_a_subgraph_stands_where_it_is_used(part: Path, node: str) -> None:
    assert problems(part, f"nodes:\n  one: {{type: Constant}}\n  {node}\noutputs: {{x: $one}}") == [
        SUBGRAPH_REFUSED[node]
    ]


def test_a_document_that_is_not_there_has_a_near_name(part: Path) -> None:
    (line,) = problems(part, "nodes: {p: {type: prt.yaml}}")
    assert line.startswith("main.yaml:2:19: error: node 'p' (prt.yaml): there is no document 'prt.yaml'; looked in ")
    assert line.endswith("Did you mean 'part.yaml'? [file-not-found]")


def test_what_is_wrong_inside_a_subgraph_stands_in_its_own_file_and_once(part: Path) -> None:
    (part.parent / "part.yaml").write_text(PART.replace("type: Add", "type: Addd"))
    assert problems(part, "nodes: {o: {type: Constant}, p: {type: part.yaml, number: $o, foreach: {plus: [1, 2]}}}\noutputs: {x: $p.sum}") == [
        "part.yaml:7:15: error: node 'p/add' (Addd): there is no such node type; `latentgraph nodes` lists what there is. "
        "Did you mean 'Add'? [unknown-type]"
    ]  # fmt: skip


def test_documents_that_use_each_other_in_a_ring_are_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(
            f"latentgraph: 1\nnodes: {{n: {{type: {other}.yaml}}}}\noutputs: {{x: $n}}"
        )
    with pytest.raises(InvalidWorkflow, match=r"the document uses itself: a.yaml -> b.yaml -> c.yaml -> a.yaml"):
        build_graph(load_document(tmp_path / "a.yaml"), REGISTRY)


def nest(folder: Path, depth: int) -> Path:
    for level in range(depth):
        kind = f"d{level + 1}.yaml" if level + 1 < depth else "Constant"
        (folder / f"d{level}.yaml").write_text(f"latentgraph: 1\nnodes: {{n: {{type: {kind}}}}}\noutputs: {{x: $n}}")
    return folder / "d0.yaml"


def test_documents_use_documents_to_a_depth(tmp_path: Path) -> None:
    graph = build_graph(load_document(nest(tmp_path, 9)), REGISTRY)
    assert list(graph.nodes) == ["/".join("n" * 9)]
    with pytest.raises(InvalidWorkflow, match=r"documents use documents more than 8 levels deep\. \[limit-depth\]"):
        build_graph(load_document(nest(tmp_path, 10)), REGISTRY)


def test_documents_that_double_a_list_at_every_step_are_refused_in_a_moment(tmp_path: Path) -> None:
    """Forty steps of doubling would be a million million links."""
    double = "latentgraph: 1\nparams: {v: {type: Number}}\nnodes: {z: {type: Constant}}\noutputs: {o: [$params.v, $params.v]}"
    (tmp_path / "double.yaml").write_text(double)
    steps = "".join(f"  n{i}: {{type: double.yaml, v: $n{i - 1}}}\n" for i in range(1, 41))
    nodes = (
        f"latentgraph: 1\nnodes:\n  n0: {{type: Constant}}\n{steps}  s: {{type: Sum, items: $n40}}\noutputs: {{x: $s}}"
    )
    (tmp_path / "main.yaml").write_text(nodes)
    with pytest.raises(InvalidWorkflow, match=r"expands to more than 100,000 values. \[limit-expanded\]"):
        build_graph(load_document(tmp_path / "main.yaml"), REGISTRY, limits=Limits(expanded=100_000))


def values(nodes: str) -> list[object]:
    graph = graph_of(f"nodes: {{c: {nodes}}}\noutputs: {{x: $c}}")
    return [tuple(node.literals[name] for name in ("word", "count")) for node in graph.nodes.values()]


def test_a_loop_makes_a_copy_for_each_item() -> None:
    assert values("{type: Kinds, foreach: {count: [1, 2, 3]}}") == [("a", 1), ("a", 2), ("a", 3)]


def test_zipped_lists_go_together() -> None:
    assert values("{type: Kinds, foreach: {zip: {word: [x, y], count: [1, 2]}}}") == [("x", 1), ("y", 2)]


def test_a_product_makes_every_pair_the_last_list_turning_fastest() -> None:
    found = values("{type: Kinds, foreach: {product: {word: [x, y], count: [1, 2]}}}")
    assert found == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]


def test_a_loop_over_a_loop_goes_along_in_whatever_order_they_stand() -> None:
    nodes = """
nodes:
  third: {type: Add, foreach: {zip: {a: $second, plus: [10, 20]}}}
  second: {type: Add, foreach: {a: $first}, plus: 1}
  first: {type: Constant, foreach: {value: [1, 2]}}
outputs: {x: $third}
"""
    graph = graph_of(nodes)
    assert graph.outputs == {"x": (Link("third[0]", "number"), Link("third[1]", "number"))}
    assert outputs_of(run_all(graph)) == {"x": [12.0, 23.0]}


def test_a_loop_over_links() -> None:
    nodes = "nodes: {a: {type: Constant, value: 1}, b: {type: Constant, value: 2}, c: {type: Add, foreach: {a: [$a, $b]}, plus: 1}}"
    assert outputs_of(run_all(graph_of(f"{nodes}\noutputs: {{x: $c}}"))) == {"x": [2.0, 3.0]}


def test_a_settled_switch_is_no_node_and_the_other_cases_never_run() -> None:
    nodes = """
params: {{mode: {{type: string, default: {}}}, on: true}}
nodes:
  bad: {{type: Fail}}
  good: {{type: Constant, value: 4}}
  pick: {{type: Switch, select: $params.mode, cases: {{left: $bad, default: $good}}}}
  again: {{type: Switch, select: $params.on, cases: {{"true": $pick, "false": $bad}}}}
outputs: {{x: $again}}
"""
    bench = Bench()
    graph = graph_of(nodes.format("other"))
    assert list(graph.nodes) == ["bad", "good"]
    assert outputs_of(run_all(graph, bench=bench)) == {"x": 4.0}
    assert bench.ran == ["good"]
    assert run_all(graph_of(nodes.format("left"))).status == "failed"


def test_switches_over_switches_have_the_type_of_their_cases_whatever_their_order() -> None:
    nodes = """
nodes:
  outer: {type: Switch, select: $name, cases: {positive: $inner, negative: $one}}
  inner: {type: Switch, select: $name, cases: {positive: $one, negative: $one}}
  name: {type: Name, a: $one}
  one: {type: Constant, value: 3}
  use: {type: Add, a: $outer}
outputs: {x: $use}
"""
    assert outputs_of(run_all(graph_of(nodes))) == {"x": 3.0}

"""Building: each problem once, in the exact words and at the exact place that a person reads; and what is right, as a graph."""

# ruff: noqa: E501 - messages stand as people read them

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest

from latentgraph.graph import (
    ABSENT,
    ComfyName,
    Context,
    FileInput,
    InvalidWorkflow,
    Known,
    LatentGraphError,
    Limits,
    Link,
    Node,
    OutputFacts,
    Registry,
    build_graph,
    document_from_tree,
    parse_document,
)

from .fakes import REGISTRY, Number, graph_of


class Bent(Node, version=1, comfy=ComfyName("KBent", {"a": "samples"}, also=(ComfyName("KBentAs", {"a": "latents"}),))):
    """Take a number, under another name elsewhere."""

    a: Number | None = None
    of: Annotated[Path, FileInput("text")] | None = None

    def run(self, ctx: Context) -> Number:
        return Number(0)

    @classmethod
    def infer(cls, known: Known) -> OutputFacts:
        if known.file("of"):
            raise LatentGraphError("the file is empty")
        return {"number": {ABSENT: "it never has one"}}


ALL = Registry([*REGISTRY.values(), Bent])


def problems(nodes: str, outputs: str = "{x: $ok}") -> list[str]:
    """Returns the problems of a document whose nodes stand from line 4 on, after one that is right."""
    text = f"latentgraph: 1\nnodes:\n  ok: {{type: Constant}}\n{nodes}\noutputs: {outputs}\n"
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(parse_document(text), ALL)
    return [str(problem).removeprefix("<document>:") for problem in caught.value.problems]


ONE_PROBLEM = {
    "n: {type: Constnt}": "4:13: error: node 'n' (Constnt): there is no such node type; `latentgraph nodes` lists what there is. "
    "Did you mean 'Constant'? [unknown-type]",
    "n: {type: KBent}": "4:13: error: node 'n' (KBent): there is no such node type; `latentgraph nodes` lists what there is. Did "
    "you mean 'Bent'? [unknown-type]",
    "n: {type: Add, a: $ok, pluss: 1}": "4:26: error: node 'n' (Add): there is no input 'pluss'; known: a, b, plus. Did you mean "
    "'plus'? [unknown-input]",
    "n: {type: Bent, samples: $ok}": "4:19: error: node 'n' (Bent): there is no input 'samples'; known: a, of. Did you mean 'a'? "
    "[unknown-input]",
    "n: {type: Add}": "4:3: error: node 'n' (Add): input 'a' is missing; it takes Number. [missing-input]",
    "n: {type: Add, a: $ok, plus: -1}": "4:32: error: node 'n' (Add): input 'plus' is -1; expected a number from 0 to 100000. "
    "[out-of-range]",
    "n: {type: Add, a: $ok, plus: x}": "4:32: error: node 'n' (Add): input 'plus' is \"x\"; expected a number from 0 to 100000. "
    "[wrong-type]",
    "n: {type: Kinds, mode: fst}": "4:26: error: node 'n' (Kinds): input 'mode' is \"fst\"; expected one of \"slow\", \"fast\". Did "
    "you mean 'fast'? [not-in-list]",
    "n: {type: Kinds, flag: 1}": "4:26: error: node 'n' (Kinds): input 'flag' is 1; expected true or false. [wrong-type]",
    "n: {type: Kinds, count: true}": "4:27: error: node 'n' (Kinds): input 'count' is true; expected a whole number from 1 to 10, a "
    "multiple of 1. [wrong-type]",
    "n: {type: Kinds, sizes: [1, x]}": "4:27: error: node 'n' (Kinds): input 'sizes' is [1, \"x\"]; expected a list, each item a "
    "whole number. [wrong-type]",
    "n: {type: Kinds, share: .inf}": "4:27: error: node 'n' (Kinds): input 'share' is Infinity; expected a number. [out-of-range]",
    "n: {type: Add, a: 3}": "4:21: error: node 'n' (Add): input 'a' takes Number, by a link such as $node.port; found 3. "
    "[wrong-type]",
    "n: {type: Add, a: [$ok]}": "4:21: error: node 'n' (Add): input 'a' takes Number, not a list. [wrong-type]",
    "n: {type: Add, a: []}": "4:21: error: node 'n' (Add): input 'a' takes Number, not a list. [wrong-type]",
    "n: {type: Add, a: $okk}": "4:21: error: node 'n' (Add): input 'a': there is no node 'okk'. Did you mean 'ok'? [dangling-link]",
    "n: {type: Add, a: $ok.numbr}": "4:21: error: node 'n' (Add): input 'a': node 'ok' (Constant) has no output 'numbr'; known: "
    "number. Did you mean 'number'? [unknown-port]",
    "n: {type: Add, a: $}": "4:21: error: node 'n' (Add): input 'a': '$' begins with a dollar but is no link ($node, $node.port or "
    "$params.name); write $$ for a literal dollar. [bad-link]",
    "n: {type: Add, a: $params.p}": "4:21: error: node 'n' (Add): input 'a': there is no parameter 'p'; known: none. [unknown-param]",
    "n: {type: Kinds, count: $ok}": "4:27: error: node 'n' (Kinds): input 'count' takes a whole number from 1 to 10, a multiple of 1, "
    "but '$ok' gives Number. [wrong-type]",
    "n: {type: FileLength, file: $ok}": "4:31: error: node 'n' (FileLength): input 'file' takes the name of a file of kind 'text', "
    "but '$ok' gives Number. [wrong-type]",
    "n: {type: FileLength, file: 3}": "4:31: error: node 'n' (FileLength): input 'file' is 3; expected the name of a file of kind "
    "'text'. [wrong-type]",
    "r: {type: Read, a: $ok}\n  n: {type: Mean, values: [1.0, $r]}": "5:27: error: node 'n' (Mean): input 'values' takes a list of values or a list of links, not both; found 1.0. [wrong-type]",
    "n: {type: Mean, values: [$ok]}": "4:27: error: node 'n' (Mean): input 'values' takes a list, each item a number, but '$ok' "
    "gives Number. [wrong-type]",
    "n: {type: Sum, items: {a: $ok}}": "4:25: error: node 'n' (Sum): input 'items' takes a list of Number, by a link such as "
    "$node.port; found {\"a\": \"$ok\"}. [wrong-type]",
    "n: {type: Add, a: $n}": "4:21: error: node 'n' (Add): it depends on itself: n.number -> n.a. Remove one of these links. [cycle]",
    "n: 3": "4:3: error: node 'n' is 3; expected a map with 'type' and the node's inputs. [wrong-type]",
    "n: {a: 3}": "4:3: error: node 'n' has no type; expected the name of a node type, or a path to a document such as ./part.yaml. "
    "[missing-input]",
    "params: {type: Constant}": "4:3: error: node 'params' has a name that can't be linked to; expected another name, because $params.x is a parameter. [bad-name]",
    "a.b: {type: Constant}": "4:3: error: node 'a.b' has a name that can't be linked to; expected letters, digits, '_' and '-', "
    "beginning with a letter. [bad-name]",
    "n: {type: Constant, foreach: 3}": "4:32: error: node 'n': 'foreach' is 3; expected a map such as {seed: [1, 2, 3]}. "
    "[wrong-type]",
    "n: {type: Constant, foreach: {value: []}}": "4:32: error: node 'n' (Constant): 'foreach': 'value' is []; expected a list with "
    "something in it, or a link to one. [wrong-type]",
    "n: {type: Constant, foreach: {value: $ok}}": "4:32: error: node 'n' (Constant): 'foreach' loops over '$ok', which is one value "
    "and no list of known length. [wrong-type]",
    "n: {type: Constant, foreach: {value: $okk}}": "4:32: error: node 'n' (Constant): 'foreach': there is no node 'okk'. Did you "
    "mean 'ok'? [dangling-link]",
    "n: {type: Constant, foreach: {value: [1], other: [2]}}": "4:32: error: node 'n' (Constant): 'foreach' has several lists; say "
    "how they go together: {zip: {...}} or {product: {...}}. [ambiguous-foreach]",
    "n: {type: Constant, foreach: {zip: {}}}": "4:32: error: node 'n' (Constant): 'foreach' has a zip of no lists; expected "
    "some, such as {zip: {seed: [1, 2]}}. [wrong-type]",
    "n: {type: Add, foreach: {zip: {plus: [1, 2], a: [$ok]}}}": "4:27: error: node 'n' (Add): 'foreach' zips lists of different "
    "lengths: plus has 2, a has 1. [wrong-length]",
    "n: {type: Constant, foreach: {value: $n}}": "4:32: error: node 'n' (Constant): 'foreach' loops over a value whose length "
    "depends on the node itself. [cycle]",
    "n: {type: Switch, select: c, cases: {a: $ok}}": "4:29: error: node 'n' (Switch): input 'select' is \"c\"; expected one of a. "
    "[not-in-list]",
    "n: {type: Switch, select: a, cases: {a: 3}}\n  m: {type: Add, a: $n}": "5:21: error: node 'm' (Add): input 'a': '$n' stands for 3, "
    "which is no node. [wrong-type]",
    "n: {type: Switch, select: a, cases: {a: $n}}\n  m: {type: Add, a: $n}": "5:21: error: node 'm' (Add): input 'a': '$n' stands for "
    "itself. [cycle]",
    "n: {type: Bent}\n  m: {type: Add, a: $n}": "5:21: error: node 'm' (Add): input 'a': n.number has no value, because it never has "
    "one. [absent-value]",
    "two: {type: Constant, value: 2}\n  m: {type: Match, a: $ok, b: $two}": "5:31: error: node 'm' (Match): input 'b' has size 2.0, "
    "but input 'a' has size 1.0. [mismatch]",
    "p: {type: Pair, a: $ok}\n  m: {type: Add, a: $p}": "5:21: error: node 'm' (Add): input 'a': node 'p' (Pair) has several outputs "
    "(rest, whole); name one, as $p.whole. [unknown-port]",
    "s: {type: Save, a: $ok}\n  m: {type: Add, a: $s}": "5:21: error: node 'm' (Add): input 'a': node 's' (Save) has no output. "
    "[unknown-port]",
    "c: {type: Count}\n  m: {type: Add, a: $c}": "5:21: error: node 'm' (Add): input 'a' takes Number, but '$c' gives a list of "
    "Number. [wrong-type]",
    "c: {type: Constant, foreach: {value: [1]}}\n  m: {type: Add, a: $c}": "5:21: error: node 'm' (Add): input 'a' takes Number, but "
    "'$c' gives a list of 1; loop over it with foreach: {a: $c}. [wrong-type]",
    "l: {type: Load}\n  m: {type: Add, a: $l}": "5:21: error: node 'm' (Add): input 'a' takes Number, but '$l' gives Handle. "
    "[wrong-type]",
    "t: {type: Name, a: $ok}\n  m: {type: Switch, select: $t, cases: {a: $ok, b: $t}}": "5:40: error: node 'm' (Switch): input "
    "'cases': the cases have different types: 'a' gives Number, 'b' gives text. [wrong-type]",
    "t: {type: Name, a: $ok}\n  m: {type: Switch, select: $t, cases: {}}": "5:40: error: node 'm' (Switch): input 'cases' takes a map of "
    "any value, by a link such as $node.port; found {}. [wrong-type]",
}  # fmt: skip


@pytest.mark.parametrize("node", ONE_PROBLEM)
def test_a_problem_is_told_once_where_it_stands_and_with_what_was_expected(node: str) -> None:
    assert problems(f"  {node}") == [ONE_PROBLEM[node]]


OUTPUTS = {
    "{x: $zz}": "4:14: error: output 'x': there is no node 'zz'. [dangling-link]",
    "{x: 3}": "4:14: error: output 'x' is 3; expected a link such as $node.port. [wrong-type]",
    "{x: []}": "4:14: error: output 'x' is []; expected a link such as $node.port. [wrong-type]",
    "{x: $ok.b}": "4:14: error: output 'x': node 'ok' (Constant) has no output 'b'; known: number. [unknown-port]",
    "{x: $}": "4:14: error: output 'x': '$' begins with a dollar but is no link ($node, $node.port or $params.name); write $$ for a "
    "literal dollar. [bad-link]",
    "{}": "3:3: error: nothing is asked for: name an output under 'outputs', or add a node with an effect such as SaveImage. "
    "[no-output]",
    "{1: $ok}": "4:11: error: output '1' has a name that can't be linked to; expected letters, digits, '_' and '-', beginning with a "
    "letter. [bad-name]",
}  # fmt: skip


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_problem_of_an_output_is_told_where_it_stands(outputs: str) -> None:
    text = f"latentgraph: 1\nnodes:\n  ok: {{type: Constant}}\noutputs: {outputs}\n"
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(parse_document(text), ALL)
    assert [str(problem).removeprefix("<document>:") for problem in caught.value.problems] == [OUTPUTS[outputs]]


def test_a_file_that_is_not_there_has_near_names_and_one_that_is_no_good_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "number.txt").write_text("1")
    text = "latentgraph: 1\nnodes:\n  a: {type: FileLength, file: numbr.txt}\n  b: {type: Bent, of: number.txt}\noutputs: {x: $a}"
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(parse_document(text, file=tmp_path / "w.yaml"), ALL)
    first, second = caught.value.problems
    assert (first.code, first.near, first.node, first.input) == ("file-not-found", "number.txt", "a", "file")
    assert first.message.startswith("node 'a' (FileLength): input 'file': there is no text 'numbr.txt'; looked in ")
    assert (second.code, second.message, second.place.mark) == (
        "unusable-file",
        "node 'b' (Bent): the file is empty.",
        (4, 23),
    )


def test_all_problems_come_at_once_in_reading_order() -> None:
    found = problems("  c: {type: Add, a: $no}\n  b: {type: Nope}\n  a: {type: Add, plus: -1}", outputs="{x: $gone}")
    assert [line.rpartition("[")[2] for line in found] == [
        "dangling-link]",
        "unknown-type]",
        "missing-input]",
        "out-of-range]",
        "dangling-link]",
    ]


def test_what_follows_from_a_problem_is_not_told_again() -> None:
    """A link to a node that could not be read, or to a copy of a loop that failed, is no problem of its own."""
    assert len(problems("  n: 3\n  m: {type: Add, a: $n}", outputs="{x: $n}")) == 1
    assert len(problems("  n: {type: Nope}\n  m: {type: Add, a: $n}\n  o: {type: Add, a: $n.x}")) == 1
    assert (
        len(problems("  n: {type: Constant, foreach: {value: 3}}\n  m: {type: Sum, items: $n}", outputs="{x: $m}")) == 1
    )
    assert len(problems("  n: {type: ./none.yaml}\n  m: {type: Add, a: $n.x}", outputs="{x: $n.y}")) == 1


def test_a_loop_tells_a_problem_of_all_its_copies_once() -> None:
    assert len(problems("  n: {type: Add, plus: -1, foreach: {a: [$ok, $ok, $ok]}}")) == 1


def test_every_cycle_is_told() -> None:
    found = problems(
        "  a: {type: Add, a: $b}\n  b: {type: Add, a: $a}\n  c: {type: Add, a: $c}\n  d: {type: Add, a: $a, b: $c}"
    )
    assert [line.split(": ")[3:5] for line in found] == [
        ["it depends on itself", "a.number -> b.a, b.number -> a.a. Remove one of these links. [cycle]"],
        ["it depends on itself", "c.number -> c.a. Remove one of these links. [cycle]"],
    ]


def test_a_long_cycle_is_cut() -> None:
    nodes = "\n".join(f"  n{i}: {{type: Add, a: $n{(i + 1) % 50}}}" for i in range(50))
    (line,) = problems(nodes)
    assert ", and 30 links more. Remove one of these links." in line


def test_a_node_that_nothing_needs_is_a_warning() -> None:
    graph = graph_of("nodes:\n  a: {type: Constant}\n  b: {type: Constant}\noutputs: {x: $a}")
    assert [str(warning) for warning in graph.warnings] == [
        "<document>:4:3: warning: node 'b' (Constant): it is not used: no output and no saving node needs it. [unused-node]"
    ]
    assert list(graph.nodes) == ["a", "b"]


def test_the_case_that_a_settled_switch_leaves_is_no_unused_node() -> None:
    graph = graph_of(
        "nodes: {a: {type: Constant}, b: {type: Constant}, s: {type: Switch, select: a, cases: {a: $a, b: $b}}}\n"
        "outputs: {x: $s}"
    )
    assert not graph.warnings
    assert graph.outputs == {"x": Link("a", "number")}
    assert graph.targets == ("a",)


def test_nodes_come_in_topological_order_with_links_literals_and_defaults() -> None:
    graph = graph_of("nodes: {b: {type: Add, a: $a, plus: 1}, a: {type: Constant}}\noutputs: {x: $b}")
    assert list(graph.nodes) == ["a", "b"]
    assert dict(graph.nodes["b"].links) == {"a": Link("a", "number")}
    assert dict(graph.nodes["b"].literals) == {"b": None, "plus": 1.0}
    assert dict(graph.nodes["a"].literals) == {"value": 1.0}


def test_an_output_with_a_loop_or_a_list_behind_it_is_several_however_few() -> None:
    graph = graph_of(
        "nodes: {one: {type: Constant}, loop: {type: Constant, foreach: {value: [1]}}, "
        "same: {type: Switch, select: a, cases: {a: $loop}}}\n"
        "outputs: {one: $one, loop: $loop, list: [$one], same: $same, mixed: [$one, $loop]}"
    )
    one, loop = Link("one", "number"), Link("loop[0]", "number")
    assert graph.outputs == {"one": one, "loop": (loop,), "list": (one,), "same": (loop,), "mixed": (one, loop)}


def test_a_tree_is_a_document_without_places() -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document_from_tree({"latentgraph": 1, "nodes": {"a": {"type": "Add"}}}), REGISTRY)
    assert str(caught.value.problems[0]) == (
        "<document>: error: node 'a' (Add): input 'a' is missing; it takes Number. [missing-input]"
    )


def test_the_graph_is_given_to_networkx_with_its_links() -> None:
    graph = graph_of("nodes: {a: {type: Constant}, b: {type: Add, a: $a, b: $a}}\noutputs: {x: $b}").as_networkx()
    assert sorted(graph.edges(data="input")) == [("a", "b", "a"), ("a", "b", "b")]


def test_a_document_with_ten_thousand_problems_is_refused_in_a_moment() -> None:
    nodes = {f"node{index}": {"type": "Add", "a": f"$nod{index}x"} for index in range(10_000)}
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document_from_tree({"latentgraph": 1, "nodes": nodes}), REGISTRY)
    assert caught.value.problems[-1].message == "there are more than 1,000 problems; the rest was not looked for."
    assert str(caught.value).endswith("\n... and 901 more")
    assert caught.value.problems[0].near == "node0"


def chain(length: int) -> str:
    links = "".join(f"  n{i}: {{type: Add, a: $n{i - 1}}}\n" for i in range(1, length))
    return f"latentgraph: 1\nnodes:\n  n0: {{type: Constant}}\n{links}outputs: {{x: $n{length - 1}}}\n"


def test_a_chain_of_five_thousand_nodes_is_no_deeper_than_one() -> None:
    graph = build_graph(parse_document(chain(5_000)), REGISTRY)
    assert len(graph.nodes) == 5_000


def test_a_cycle_of_five_thousand_nodes_is_found() -> None:
    text = chain(5_000).replace("{type: Constant}", "{type: Add, a: $n4999}")
    with pytest.raises(InvalidWorkflow, match="and 4980 links more"):
        build_graph(parse_document(text), REGISTRY)


def test_a_fan_of_many_links_is_linear() -> None:
    items = ", ".join(["$a"] * 50_000)
    graph = graph_of(f"nodes: {{a: {{type: Constant}}, s: {{type: Sum, items: [{items}]}}}}\noutputs: {{x: $s}}")
    assert len(list(graph.nodes["s"].sources())) == 50_000


def test_limits_hold_for_what_a_document_expands_to() -> None:
    text = "latentgraph: 1\nnodes: {a: {type: Constant, foreach: {product: {value: [1, 2, 3], b: [1, 2, 3]}}}}"
    with pytest.raises(InvalidWorkflow, match=r"'foreach' makes 9 copies; at most 8 are made. \[limit-nodes\]"):
        build_graph(parse_document(text), REGISTRY, limits=Limits(nodes=8))
    text = "latentgraph: 1\nnodes: {a: {type: Constant, foreach: {value: [1, 2]}}, b: {type: Constant, foreach: {value: [1, 2]}}}"
    with pytest.raises(InvalidWorkflow, match=r"expands to more than 3 nodes. \[limit-nodes\]"):
        build_graph(parse_document(text), REGISTRY, limits=Limits(nodes=3))
    with pytest.raises(InvalidWorkflow, match=r"the document has 2 nodes; at most 1 are read. \[limit-nodes\]"):
        parse_document(text, limits=Limits(nodes=1))
    bomb = (
        "latentgraph: 1\nparams: {p: "
        + "x" * 1000
        + "}\nnodes: {a: {type: Kinds, word: '"
        + "${params.p}" * 1000
        + "'}}"
    )
    with pytest.raises(InvalidWorkflow, match=r"expands to more than 10,000 values. \[limit-expanded\]"):
        build_graph(parse_document(bomb), REGISTRY, limits=Limits(expanded=10_000))

"""Pictures of graphs: Mermaid as text, SVG as well-formed XML with a box a node and a line a link."""

from __future__ import annotations

from xml.etree import ElementTree

from latentgraph.graph.draw import mermaid, svg

from .fakes import graph_of

NODES = """
name: a <b> & "c"
nodes:
  one: {type: Constant, value: 2}
  text: {type: Kinds, word: '<script> & "quotes" that go on and on and on and on'}
  add: {type: Add, foreach: {plus: [1, 2]}, a: $one}
  sum: {type: Sum, items: $add}
  save: {type: Save, a: $sum}
outputs: {x: $sum, all: $add, t: $text}
"""
SVG = "{http://www.w3.org/2000/svg}"


def test_mermaid_has_a_line_for_each_node_link_and_output() -> None:
    assert mermaid(graph_of("nodes: {a: {type: Constant}, b: {type: Add, a: $a}}\noutputs: {x: $b}")) == (
        'flowchart LR\n    n0["a<br/><small>Constant</small>"]\n    n1["b<br/><small>Add</small>"]\n'
        '    n0 -- "a" --> n1\n    o0(["x"])\n    n1 --> o0\n'
    )
    text = mermaid(graph_of(NODES))
    assert text.count(" -- ") == 5
    assert text.count("--> o") == 4


def test_svg_is_well_formed_with_a_box_for_each_node_and_a_line_for_each_link() -> None:
    graph = graph_of(NODES)
    root = ElementTree.fromstring(svg(graph))
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == 'a <b> & "c"'
    assert len(root.findall(f"{SVG}g")) == len(graph.nodes)
    assert len(root.findall(f"{SVG}path")) == 5
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    for box in root.findall(f"{SVG}g/{SVG}rect"):
        at = {name: int(box.attrib[name]) for name in ("x", "y", "width", "height")}
        assert 0 <= at["x"] <= width - at["width"]
        assert 0 <= at["y"] <= height - at["height"]


def test_links_run_from_left_to_right() -> None:
    root = ElementTree.fromstring(svg(graph_of(NODES)))
    for line in root.findall(f"{SVG}path"):
        start, *_, end = line.attrib["d"].replace("C", "").split()
        assert int(start[1:].split(",")[0]) < int(end.split(",")[0])

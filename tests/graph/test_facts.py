"""Facts: how they flow along links, and that what is unknown is never an error."""

from __future__ import annotations

import pytest

from latentgraph.graph import InvalidWorkflow, Known

from .fakes import graph_of


def known(reports: list[tuple[str, str]]) -> Known:
    facts = {
        "a": [{"size": 1, "kind": "x"}],
        "b": [{"size": 2}],
        "list": [{"size": 1, "k": 1}, {"size": 1, "k": 2}],
        "none": [{}],
    }
    return Known({"steps": 3}, facts, {}, lambda name, message: reports.append((name, message)))


def test_a_node_sees_literals_and_facts() -> None:
    seen = known([])
    assert (seen.value("steps"), seen.value("a"), seen.file("a")) == (3, None, None)
    assert (seen.fact("a", "size"), seen.fact("none", "size"), seen.fact("unlinked", "size")) == (1, None, None)
    assert seen.facts("list") == {"size": 1}
    assert list(seen.each("list")) == [{"size": 1, "k": 1}, {"size": 1, "k": 2}]


def test_facts_flow_through_nodes_loops_and_settled_switches() -> None:
    nodes = """
nodes:
  one: {type: Constant, value: 1}
  two: {type: Constant, value: 2}
  same: {type: Match, a: $one, b: $one}
  pick: {type: Switch, select: x, cases: {x: $same, y: $two}}
  bad: {type: Match, a: $pick, b: $two}
outputs: {x: $bad}
"""
    with pytest.raises(InvalidWorkflow) as caught:
        graph_of(nodes)
    (problem,) = caught.value.problems
    assert (problem.code, problem.node, problem.input) == ("mismatch", "bad", "b")
    assert graph_of(nodes.replace("select: x", "select: y")).nodes["bad"].facts == {"number": {"size": 2.0}}

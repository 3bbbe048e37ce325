"""Plans: what is run, what is reused, and what a hit hides. Nothing runs here."""

from __future__ import annotations

import pytest

from latentgraph.graph import Plan, UnknownTarget, cache_keys, make_plan
from latentgraph.graph.fingerprints import Fingerprints

from .fakes import graph_of

NODES = """
nodes:
  one: {type: Constant}
  double: {type: Add, a: $one, b: $one}
  add: {type: Add, a: $double}
  other: {type: Constant, value: 3}
  save: {type: Save, a: $other}
  load: {type: Load}
  use: {type: Use, handle: $load}
outputs: {x: $add, y: $use}
"""


def plan(cached: str = "", targets: list[str] | None = None) -> Plan:
    graph = graph_of(NODES)
    keys = cache_keys(graph, Fingerprints())
    have = {keys[id] for id in cached.split()}
    return make_plan(graph, keys, lambda key: "memory" if key in have else None, targets)


def test_without_a_cache_all_that_is_wanted_runs_in_topological_order() -> None:
    found = plan()
    assert set(found.run) == {"one", "double", "add", "other", "save", "load", "use"}
    assert found.run.index("one") < found.run.index("double") < found.run.index("add")
    assert (dict(found.reuse), set(found.targets)) == ({}, {"add", "use", "save"})


def test_a_cached_value_hides_the_nodes_above_it() -> None:
    found = plan("double one")
    assert "one" not in found.reuse
    assert "one" not in found.run
    assert dict(found.reuse) == {"double": "memory"}


def test_effects_and_what_is_cheaper_to_make_are_never_reused() -> None:
    found = plan("save load other")
    assert dict(found.reuse) == {"other": "memory"}
    assert {"save", "load", "use"} <= set(found.run)


def test_only_what_the_targets_need_is_planned() -> None:
    found = plan(targets=["double"])
    assert (set(found.run), found.targets) == ({"one", "double"}, ("double",))


def test_an_unknown_target_is_named_with_a_near_one() -> None:
    with pytest.raises(
        UnknownTarget, match=r"there is no node 'doubel' in 'workflow'; known: .*\. Did you mean 'double'\?"
    ):
        plan(targets=["doubel"])

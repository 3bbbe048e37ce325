"""Explanations: for each node whether it would be reused, and what of its key changed since the last run."""

from __future__ import annotations

from pathlib import Path

from latentgraph.graph import Explanation, Fingerprints, History, MemoryCache, all_key_parts, explain

from .fakes import CODEC, Bench, graph_of, plan_of, run_all

NODES = """
params: {{v: {v}}}
nodes:
  one: {{type: Constant, value: $params.v}}
  file: {{type: FileLength, file: {file}}}
  add: {{type: Add, a: $one, b: $file, plus: {plus}}}
  load: {{type: Load}}
  use: {{type: Use, handle: $load}}
  save: {{type: Save, a: $add}}
outputs: {{x: $add, y: $use}}
"""


def test_each_node_says_what_would_happen_to_it_and_why(tmp_path: Path) -> None:
    file = tmp_path / "n.txt"
    file.write_text("1")
    cache, history, prints = MemoryCache(CODEC, 1 << 20), History(tmp_path / "history"), Fingerprints()

    def explained(v: int, plus: int, *, run: bool) -> dict[str, Explanation]:
        graph = graph_of(NODES.format(v=v, plus=plus, file=file))
        plan = plan_of(graph, cache, prints)
        parts = all_key_parts(plan, "")
        found = {one.node: one for one in explain(plan, parts, history.last(graph))}
        if run:
            history.remember(graph, parts)
            assert run_all(graph, cache, Bench()).status == "succeeded"
        return found

    first = explained(1, 0, run=True)
    assert {one.status for one in first.values()} == {"miss"}
    assert first["one"].changes == ("the document was not run before",)
    assert first["load"].changes == ("it is cheaper to make than to keep",)
    again = explained(1, 0, run=False)
    assert {id: (one.status, one.tier, one.changes) for id, one in again.items()} == {
        "one": ("not needed", None, ()),
        "file": ("not needed", None, ()),
        "add": ("hit", "memory", ()),
        "load": ("not needed", None, ()),
        "use": ("hit", "memory", ()),
        "save": ("miss", None, ("it has an effect, so it always runs",)),
    }
    changed = explained(2, 5, run=False)
    assert changed["one"].changes == ("input value: 1.0 -> 2.0",)
    assert changed["add"].changes == ("input plus: 0.0 -> 5.0", "what a is linked to changed (one)")
    file.write_text("2")
    assert explained(1, 0, run=False)["file"].changes == (f"the content of file file changed ({file.resolve()})",)
    file.write_text("1")
    cache.clear()
    assert explained(1, 0, run=False)["one"].changes == (
        "nothing changed; its result was never kept, or was dropped from the cache",
    )


def test_a_history_that_is_lost_or_broken_costs_an_explanation_and_nothing_else(tmp_path: Path) -> None:
    graph = graph_of("nodes: {a: {type: Constant}}\noutputs: {x: $a}")
    history = History(tmp_path / "history")
    assert history.last(graph) is None
    history.remember(graph, {"a": {"node type": "Constant"}})
    assert history.last(graph) == {"a": {"node type": "Constant"}}
    (note,) = (tmp_path / "history").iterdir()
    for broken in ("", "[]", "{"):
        note.write_text(broken)
        assert history.last(graph) is None
    nowhere = History(None)
    nowhere.remember(graph, {})
    assert nowhere.last(graph) is None
    note.unlink()
    (tmp_path / "history").rmdir()
    (tmp_path / "history").write_text("no folder")
    history.remember(graph, {})


def test_documents_have_a_history_each(tmp_path: Path) -> None:
    history = History(tmp_path)
    one = graph_of("name: one\nnodes: {a: {type: Constant}}\noutputs: {x: $a}")
    two = graph_of("name: two\nnodes: {a: {type: Constant}}\noutputs: {x: $a}")
    history.remember(one, {"a": {}})
    assert history.last(two) is None

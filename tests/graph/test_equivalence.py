"""Properties: caches change nothing but the time, whatever the graph; runs end, whatever fails or is cancelled.

Graphs are made by drawing for each node its kind and what it reads among the nodes before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentgraph.graph import (
    Cache,
    DiskCache,
    InvalidWorkflow,
    MemoryCache,
    NodeFailed,
    Problem,
    TieredCache,
    build_graph,
    document_from_tree,
    flat_document,
    parse_document,
)

from .fakes import CODEC, PATIENCE_SECONDS, REGISTRY, Bench, Number, outputs_of, plan_of, run_all, scheduler_of

RELAXED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Nodes = dict[str, dict[str, Any]]


@st.composite
def recipes(draw: st.DrawFn, *, failing: bool = False, most: int = 14) -> Nodes:
    """Draws the nodes of a workflow in an order in which each reads earlier ones."""
    nodes: Nodes = {"n0": {"type": "Constant", "value": 1.0}}
    numbers = ["$n0"]
    for index in range(1, draw(st.integers(2, most))):
        name = f"n{index}"
        number = st.sampled_from(numbers)
        kinds = ["Constant", "Add", "Sum", "Pair", "OnDevice", "Mutate", "Switch", "Count", "Each", "Use"]
        kind = draw(st.sampled_from([*kinds, "Fail"] if failing else kinds))
        give = f"${name}"
        if kind == "Constant":
            nodes[name] = {"type": kind, "value": float(draw(st.integers(-3, 3)))}
        elif kind == "Add":
            nodes[name] = {"type": kind, "a": draw(number), "b": draw(number), "plus": draw(st.integers(0, 2))}
        elif kind == "Sum":
            nodes[name] = {"type": kind, "items": draw(st.lists(number, min_size=1, max_size=3))}
        elif kind == "Pair":
            nodes[name] = {"type": kind, "a": draw(number)}
            give = f"${name}.{draw(st.sampled_from(['whole', 'rest']))}"
        elif kind == "Switch":
            nodes[f"{name}s"] = {"type": "Name", "a": draw(number)}
            cases = {"positive": draw(number), "negative": draw(number)}
            nodes[name] = {"type": kind, "select": f"${name}s", "cases": cases}
        elif kind == "Count":
            nodes[f"{name}c"] = {"type": kind, "below": draw(st.integers(0, 3))}
            nodes[name] = {"type": "Sum", "items": f"${name}c"}
        elif kind == "Each":
            nodes[f"{name}e"] = {
                "type": "Add",
                "a": draw(number),
                "foreach": {"plus": draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))},
            }
            nodes[name] = {"type": "Sum", "items": f"${name}e"}
        elif kind == "Use":
            nodes[f"{name}l"] = {"type": "Load"}
            nodes[name] = {"type": kind, "handle": f"${name}l", "value": float(draw(st.integers(0, 2)))}
        else:
            nodes[name] = {"type": kind, "a": draw(number)}
        numbers.append(give)
    return nodes


def document(nodes: Nodes, wanted: int = 3) -> dict[str, Any]:
    outputs = {name: f"${name}.whole" if node["type"] == "Pair" else f"${name}" for name, node in nodes.items()}
    usable = [name for name in outputs if nodes[name]["type"] not in ("Load", "Name", "Count")]
    return {"latentgraph": 1, "nodes": nodes, "outputs": {name: outputs[name] for name in usable[-wanted:]}}


@st.composite
def edits(draw: st.DrawFn) -> list[Nodes]:
    """Draws a workflow and what becomes of it as someone changes one literal at a time, and changes back."""
    versions = [draw(recipes())]
    for _ in range(draw(st.integers(1, 4))):
        nodes = {name: dict(node) for name, node in draw(st.sampled_from(versions)).items()}
        changeable = [name for name, node in nodes.items() if node["type"] in ("Constant", "Use")]
        nodes[draw(st.sampled_from(changeable))]["value"] = float(draw(st.integers(-2, 4)))
        versions.append(nodes)
    return versions


def caches(kind: str, folder: Path) -> Cache:
    memory = {"memory": 1 << 20, "tiny": 30}.get(kind, 100)
    if kind == "disk":
        return DiskCache(folder, CODEC, 1 << 20)
    if kind == "small disk":
        return DiskCache(folder, CODEC, 2000)
    if kind == "both":
        return TieredCache([MemoryCache(CODEC, memory), DiskCache(folder, CODEC, 1 << 20)])
    return MemoryCache(CODEC, memory)


@pytest.mark.parametrize("kind", ["memory", "tiny", "disk", "small disk", "both"])
@RELAXED
@given(versions=edits())
def test_outputs_are_the_same_with_and_without_a_cache(kind: str, versions: list[Nodes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shared = caches(kind, Path(folder))
        for index, nodes in enumerate(versions):
            if index % 2 and kind in ("disk", "both"):
                shared = caches(kind, Path(folder))  # as another process would
            graph = build_graph(document_from_tree(document(nodes)), REGISTRY)
            expected = run_all(graph)
            found = run_all(graph, shared)
            assert expected.status == found.status == "succeeded"
            assert outputs_of(found) == outputs_of(expected)


@RELAXED
@given(nodes=recipes())
def test_a_graph_written_back_as_a_document_gives_the_same(nodes: Nodes) -> None:
    graph = build_graph(document_from_tree(document(nodes)), REGISTRY)
    again = build_graph(document_from_tree(flat_document(graph)), REGISTRY)
    assert outputs_of(run_all(again)) == outputs_of(run_all(graph))
    assert sorted(plan_of(again).keys.values()) == sorted(plan_of(graph).keys.values())


@RELAXED
@given(recipe=st.lists(recipes(failing=True), min_size=1, max_size=3), cancel=st.lists(st.integers(0, 12), max_size=3))
def test_runs_end_and_their_reports_agree_whatever_fails_or_is_cancelled(
    recipe: list[Nodes], cancel: list[int]
) -> None:
    """Cancels from within a watcher, after so many events."""
    cache = MemoryCache(CODEC, 200)
    graphs = [build_graph(document_from_tree(document(nodes)), REGISTRY) for nodes in recipe for _ in range(2)]
    plans = [plan_of(graph, cache) for graph in graphs]
    with scheduler_of(cache, Bench()) as scheduler:
        runs: list[Any] = []
        seen = 0

        def watch(event: Any) -> None:
            nonlocal seen
            seen += 1
            if seen in cancel and runs:
                scheduler.cancel(runs[seen % len(runs)])

        for plan in plans:
            runs.append(scheduler.start(plan, on_event=watch))  # noqa: PERF401 - the watcher reads the list meanwhile
        results = [run.wait(PATIENCE_SECONDS) for run in runs]
    for graph, result in zip(graphs, results, strict=True):
        status = {id: report.status for id, report in result.nodes.items()}
        assert set(status) == set(graph.nodes)
        assert set(result.failures) == {id for id, word in status.items() if word == "failed"}
        assert all(isinstance(error, NodeFailed) and error.node == id for id, error in result.failures.items())
        words = set(status.values())
        assert result.status == (
            "failed" if "failed" in words else "cancelled" if "cancelled" in words else "succeeded"
        )
        for id, word in status.items():
            sources = {status[link.node] for link in graph.nodes[id].sources()}
            if word == "blocked":
                assert sources & {"failed", "blocked"}
        if result.status == "succeeded":
            assert set(result.outputs) == set(graph.outputs)
            assert outputs_of(result) == outputs_of(run_all(graph))


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["$a", "$b.number", "$params.p", "${params.p}", "$$", "$", "a\0b.yaml", "Add", "Constant", "Switch", "./x.yaml"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "a", "b", "foreach", "zip", "product", "default", "items", "select", "cases", "value", "min"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
NODE = st.fixed_dictionaries(
    {"type": st.sampled_from(["Add", "Sum", "Switch", "Constant", "Kinds", "Mean", "FileLength", "./no.yaml"])},
    optional=dict.fromkeys(
        ("a", "b", "plus", "items", "select", "cases", "value", "values", "foreach", "sizes", "either", "mode", "file"),
        TREES,
    ),
)
WORKFLOWS = st.fixed_dictionaries(
    {"latentgraph": st.just(1) | TREES, "nodes": st.dictionaries(st.sampled_from("abc"), NODE | TREES, max_size=3)},
    optional={
        "params": st.dictionaries(st.sampled_from("pq"), TREES, max_size=2) | TREES,
        "outputs": st.dictionaries(st.sampled_from("xy"), TREES, max_size=2) | TREES,
    },
)


@settings(RELAXED, max_examples=150)
@given(tree=WORKFLOWS | TREES, params=st.dictionaries(st.sampled_from("pq"), TREES, max_size=1))
def test_whatever_a_document_holds_it_builds_or_is_refused_with_reasons(tree: Any, params: dict[str, Any]) -> None:
    problems = problems_of(lambda: build_graph(document_from_tree(tree), REGISTRY, params=params))
    assert all(problem.message and problem.code for problem in problems)


@settings(RELAXED, max_examples=150)
@given(text=st.text() | st.binary() | st.text(st.sampled_from("{}[]:,-?*&!|>'\"$#%@`\n\t a1.\\u"), max_size=40))
@pytest.mark.parametrize("syntax", ["yaml", "json"])
def test_whatever_a_text_holds_it_is_read_or_refused(syntax: Any, text: str | bytes) -> None:
    problems_of(lambda: parse_document(text, syntax=syntax))


def problems_of(act: Callable[[], Any]) -> tuple[Problem, ...]:
    """Returns why something was refused, nothing if it was not; any other exception is a fault."""
    try:
        act()
    except InvalidWorkflow as refused:
        return refused.problems or (Problem("", ""),)
    return ()


@RELAXED
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.floats(-9, 9).map(Number),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_values_come_back_from_disk_as_they_were(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        DiskCache(Path(folder), CODEC, 1 << 20).put("ab" * 32, {"port": value, "other": 1}, 0.5)
        hit = DiskCache(Path(folder), CODEC, 1 << 20).get("ab" * 32)
    assert hit is not None
    assert shape(hit.ports["port"]) == shape(value)
    assert shape(CODEC.copy(value)) == shape(value)


def shape(value: Any) -> Any:
    """Returns a value with its classes, so that a tuple is no list and True is not 1."""
    if isinstance(value, Number):
        return ("Number", value.value)
    if isinstance(value, list | tuple):
        return (type(value), [shape(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(key, shape(item)) for key, item in value.items()])
    return (type(value), value)

"""Keys: what they depend on, what they don't, and the exact keys of a sample, so that a changed key is a reviewed decision."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from latentgraph.graph import (
    Context,
    FileNotUsable,
    Fingerprints,
    Graph,
    Keys,
    Node,
    Registry,
    build_graph,
    cache_keys,
    parse_document,
)

from .fakes import REGISTRY, Number, graph_of

SAMPLE = """
nodes:
  one: {type: Constant, value: 2}
  add: {type: Add, a: $one, plus: 1}
  sum: {type: Sum, items: [$one, $add.number]}
  name: {type: Name, a: $one}
  pick: {type: Switch, select: $name, cases: {positive: $one, negative: $sum}}
  gpu: {type: OnDevice, a: $pick}
  kinds: {type: Kinds, word: é, sizes: [1, 2]}
outputs: {x: $gpu, y: $kinds}
"""


def keys(nodes: str, environment: str = "", **params: Any) -> Keys:
    return cache_keys(graph_of(nodes, params=params), Fingerprints(), environment)


def test_the_keys_of_a_sample_are_pinned() -> None:
    """A change here makes every cached result worthless: change SCHEME or a node's version on purpose, never by accident."""
    assert {id: key[:16] for id, key in keys(SAMPLE, "exact/cpu").items()} == {
        "one": "1d58deb5289ea5a0",
        "kinds": "2edf7b5c4829bb8e",
        "add": "5e215f19cc017091",
        "name": "132a259e73adbeed",
        "sum": "f50cd2dee18678ad",
        "pick": "6b8e6f88e96c5031",
        "gpu": "f4d020192abd1c57",
    }


def test_a_key_is_the_hash_of_plain_json() -> None:
    preimage = '["latentgraph key 1", "Constant", 1, "", [["value", 2.0]], [], []]'
    assert keys(SAMPLE)["one"] == hashlib.sha256(preimage.encode()).hexdigest()


def one(inputs: str, kind: str = "Kinds") -> str:
    return keys(f"nodes: {{a: {{type: Constant}}, n: {{type: {kind}, {inputs}}}}}\noutputs: {{x: $n}}")["n"]


@pytest.mark.parametrize(
    ("inputs", "same"),
    [
        ("word: x, count: 2", "count: 2, word: x"),
        ("word: a", ""),
        ("count: 1, mode: slow, maybe: null, sizes: []", ""),
        ("share: 1", "share: 1.0"),
        ("share: 0.5", ""),
        ("word: '1'", 'word: "1"'),
        ("word: $$", 'word: "$$"'),
    ],
)
def test_what_says_the_same_has_the_same_key(inputs: str, same: str) -> None:
    assert one(inputs) == one(same)


@pytest.mark.parametrize(
    ("inputs", "other"),
    [
        ("word: x", "word: y"),
        ("either: 1", "either: '1'"),
        ("either: 1", "maybe: 1"),
        ("sizes: [1, 2]", "sizes: [2, 1]"),
        ("sizes: [12]", "sizes: [1, 2]"),
        ("share: 0.1", "share: 0.10000000000000002"),
        ("share: 0.0", "share: -0.0"),
        ("maybe: 0", "maybe: null"),
    ],
)
def test_what_says_something_else_has_another_key(inputs: str, other: str) -> None:
    assert one(inputs) != one(other)


def test_links_count_by_port_order_name_and_shape() -> None:
    nodes = """
nodes:
  c: {type: Constant}
  p: {type: Pair, a: $c}
  whole: {type: Add, a: $p.whole}
  rest: {type: Add, a: $p.rest}
  ab: {type: Sum, items: [$p.whole, $p.rest]}
  ba: {type: Sum, items: [$p.rest, $p.whole]}
  once: {type: Sum, items: [$c]}
  twice: {type: Sum, items: [$c, $c]}
outputs: {x: $c}
"""
    found = keys(nodes)
    assert len(set(found.values())) == len(found)


def test_ids_and_parameters_do_not_count_but_their_values_do() -> None:
    nodes = "params: {{v: 1}}\n"
    nodes += "nodes: {{{0}: {{type: Constant, value: $params.v}}, {1}: {{type: Add, a: ${0}}}}}\noutputs: {{x: ${1}}}"
    assert sorted(keys(nodes.format("a", "b")).values()) == sorted(keys(nodes.format("c", "d")).values())
    assert keys(nodes.format("a", "b"), v=2)["b"] != keys(nodes.format("a", "b"))["b"]


def test_a_change_reaches_every_node_below_and_no_other() -> None:
    before, after = keys(SAMPLE), keys(SAMPLE.replace("plus: 1", "plus: 2"))
    assert {id for id in before if before[id] != after[id]} == {"add", "sum", "pick", "gpu"}


def test_the_environment_counts_for_the_device_lane_and_what_is_below() -> None:
    exact, auto = keys(SAMPLE, "exact/cpu"), keys(SAMPLE, "auto/cuda")
    assert {id for id in exact if exact[id] != auto[id]} == {"gpu"}


def version(number: int) -> Graph:
    class Aged(Node, version=number):
        """Ages."""

        def run(self, ctx: Context) -> Number:
            return Number(1)

    return build_graph(parse_document("latentgraph: 1\nnodes: {a: {type: Aged}}\noutputs: {x: $a}"), Registry([Aged]))


def test_a_new_version_of_a_node_is_a_new_key() -> None:
    first, second, again = (cache_keys(version(number), Fingerprints())["a"] for number in (1, 2, 1))
    assert first == again != second


def test_a_file_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    a, b, c = (one(f"file: {tmp_path / name}", "FileLength") for name in "abc")
    assert a == b != c


def test_the_keys_remember_what_each_file_was(tmp_path: Path) -> None:
    path = (tmp_path / "a").resolve()
    path.write_text("1")
    found = keys(f"nodes: {{n: {{type: FileLength, file: {path}}}}}\noutputs: {{x: $n}}")
    assert {path: look.fingerprint for path, look in found.files.items()} == {path: hashlib.sha256(b"1").hexdigest()}


def test_a_file_that_vanished_since_it_was_checked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    graph = graph_of(f"nodes: {{n: {{type: FileLength, file: {path}}}}}\noutputs: {{x: $n}}")
    path.unlink()
    with pytest.raises(FileNotUsable, match="can't be read"):
        cache_keys(graph, Fingerprints())


def test_a_chain_of_five_thousand_has_keys() -> None:
    links = "".join(f"  n{i}: {{type: Add, a: $n{i - 1}}}\n" for i in range(1, 5_000))
    graph = build_graph(
        parse_document(f"latentgraph: 1\nnodes:\n  n0: {{type: Constant}}\n{links}outputs: {{x: $n4999}}"), REGISTRY
    )
    found = cache_keys(graph, Fingerprints())
    assert len(set(found.values())) == 5_000

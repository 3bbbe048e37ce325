"""The engine's own cost: graphs of nodes that do nothing, against Dask's threaded scheduler in the same run.

    python -m benchmarks.engine [--repeat N]

Every figure is the median of N rounds; figures that are compared are measured in turn, so that the ratio holds on a noisy
machine. Needs the extra `dev` for Dask.
"""

from __future__ import annotations

import argparse
import json
import operator
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from latentgraph.graph import (
    Context,
    DiskCache,
    Fingerprints,
    Graph,
    MemoryCache,
    Node,
    Packed,
    PlainCodec,
    Registry,
    Scheduler,
    build_graph,
    cache_keys,
    document_from_tree,
    make_plan,
    parse_document,
)


class Number:
    """The value that travels along the links."""

    def __init__(self, value: int) -> None:
        self.value = value


class Start(Node, version=1):
    """Give a number."""

    value: int = 0

    def run(self, ctx: Context) -> Number:
        """Returns the number."""
        return Number(self.value)


class Increment(Node, version=1):
    """Add one."""

    number: Number
    salt: int = 0

    def run(self, ctx: Context) -> Number:
        """Returns the number plus one."""
        return Number(self.number.value + 1)


class Sum(Node, version=1):
    """Add many numbers."""

    numbers: list[Number]

    def run(self, ctx: Context) -> Number:
        """Returns the sum."""
        return Number(sum(number.value for number in self.numbers))


REGISTRY = Registry([Start, Increment, Sum])


def chain_tree(length: int) -> dict[str, object]:
    """Returns a document with a chain of `length` nodes."""
    nodes: dict[str, object] = {"n0": {"type": "Start"}}
    nodes.update({f"n{i}": {"type": "Increment", "number": f"$n{i - 1}"} for i in range(1, length)})
    return {"latentgraph": 1, "nodes": nodes, "outputs": {"last": f"$n{length - 1}"}}


def fan_tree(links: int) -> dict[str, object]:
    """Returns a document in which one node reads one other by `links` links."""
    nodes = {"one": {"type": "Start", "value": 1}, "all": {"type": "Sum", "numbers": ["$one"] * links}}
    return {"latentgraph": 1, "nodes": nodes, "outputs": {"sum": "$all"}}


def build(tree: dict[str, object]) -> Graph:
    """Returns the graph of a document tree."""
    return build_graph(document_from_tree(tree), REGISTRY)


def cold_and_hit(graph: Graph) -> tuple[float, float]:
    """Returns the seconds of a first run (keys, plan, run) and of the same again with everything in memory."""
    codec = PlainCodec()
    cache = MemoryCache(codec, 1 << 30)
    times: list[float] = []
    with Scheduler(cache, codec) as scheduler:
        for _ in range(2):
            begun = time.perf_counter()
            plan = make_plan(graph, cache_keys(graph, Fingerprints()), cache.tier)
            result = scheduler.run(plan)
            times.append(time.perf_counter() - begun)
            result.raise_failure()
    return times[0], times[1]


def run_only(graph: Graph) -> float:
    """Returns the seconds of the run alone, keys and plan made before: what Dask's `get` does."""
    codec = PlainCodec()
    cache = MemoryCache(codec, 1 << 30)
    with Scheduler(cache, codec) as scheduler:
        plan = make_plan(graph, cache_keys(graph, Fingerprints()), cache.tier)
        begun = time.perf_counter()
        scheduler.run(plan).raise_failure()
        return time.perf_counter() - begun


def dask_chain(length: int) -> float:
    """Returns the seconds in which Dask's threaded scheduler computes a chain of the same length."""
    import dask.threaded

    graph: dict[str, object] = {"n0": 0}
    graph.update({f"n{i}": (operator.add, f"n{i - 1}", 1) for i in range(1, length)})
    begun = time.perf_counter()
    result = dask.threaded.get(graph, f"n{length - 1}", num_workers=2)
    seconds = time.perf_counter() - begun
    if result != length - 1:
        raise RuntimeError(f"Dask gave {result}, expected {length - 1}")
    return seconds


def from_disk(graph: Graph) -> float:
    """Returns the seconds of keys, plan and run of a graph whose result another cache object put on disk."""
    codec = PlainCodec(_NumberCodec())
    with tempfile.TemporaryDirectory() as folder:
        seconds = 0.0
        for _ in range(2):
            cache = DiskCache(Path(folder), codec, 1 << 30)
            with Scheduler(cache, codec) as scheduler:
                begun = time.perf_counter()
                scheduler.run(make_plan(graph, cache_keys(graph, Fingerprints()), cache.tier)).raise_failure()
                seconds = time.perf_counter() - begun
        return seconds


class _NumberCodec:
    """Writes a Number down as JSON."""

    def nbytes(self, value: Number) -> int:
        return 32

    def copy(self, value: Number) -> Number:
        return value

    def pack(self, value: Number) -> Packed:
        return Packed(value.value)

    def unpack(self, packed: Packed) -> Number:
        return Number(packed.data)


def process(*arguments: str) -> float:
    """Returns the wall seconds of a whole process of this interpreter."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def median(measure: Callable[[], float], repeat: int) -> float:
    """Returns the median of `repeat` measurements."""
    return statistics.median(measure() for _ in range(repeat))


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    repeat: int = parser.parse_args().repeat
    table = Table("figure", "measured", "to reach", box=None)

    def row(figure: str, measured: str, goal: str) -> None:
        table.add_row(figure, measured, goal)

    small, large = build(chain_tree(1_000)), build(chain_tree(10_000))
    rounds = [(cold_and_hit(small), cold_and_hit(large), run_only(small), dask_chain(1_000)) for _ in range(repeat)]
    cold, hit = (statistics.median(one[0][i] for one in rounds) for i in (0, 1))
    large_ratio, hit_ratio = (statistics.median(one[1][i] / one[0][i] for one in rounds) for i in (0, 1))
    row("chain of 1,000, cold", f"{cold * 1e3:.1f} ms", "50 ms")
    row("chain of 1,000, all hit", f"{hit * 1e3:.1f} ms", "10 ms")
    row("10,000 against 1,000, cold", f"{large_ratio:.1f} x", "12 x")
    row("10,000 against 1,000, all hit", f"{hit_ratio:.1f} x", "12 x")
    fans = [
        (cold_and_hit(build(fan_tree(10_000)))[0], cold_and_hit(build(fan_tree(100_000)))[0]) for _ in range(repeat)
    ]
    row("fan of 100,000 links against 10,000", f"{statistics.median(b / a for a, b in fans):.1f} x", "12 x")
    against_dask = statistics.median(theirs / ours for _, _, ours, theirs in rounds)
    row("Dask's threaded scheduler, same chain", f"{against_dask:.1f} x our time", "at least 2 x")

    document = document_from_tree(chain_tree(1_000))

    text = json.dumps(chain_tree(1_000))
    row(
        "validate 1,000 nodes",
        f"{median(lambda: _timed(lambda: build_graph(document, REGISTRY)), repeat) * 1e3:.1f} ms",
        "20 ms",
    )
    parsed = median(lambda: _timed(lambda: parse_document(text, syntax="json")), repeat)
    row("parse 1,000 nodes from JSON with places", f"{parsed * 1e3:.1f} ms", "-")
    row("chain of 1,000 from disk, new cache object", f"{from_disk(small) * 1e3:.1f} ms", "100 ms")
    bare = median(lambda: process("-c", "pass"), repeat)
    imported = median(lambda: process("-c", "import latentgraph.graph"), repeat)
    row("import latentgraph.graph", f"{imported - bare:.2f} s", "0.3 s")
    workflow = Path(__file__).parent.parent / "workflows" / "txt2img.yaml"
    whole = median(lambda: process("-m", "latentgraph.cli", "validate", str(workflow)), repeat)
    row("latentgraph validate, whole process", f"{whole:.2f} s", "0.6 s")
    Console().print(table)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()

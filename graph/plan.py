"""Plan: what a run will compute, what it will take from the cache, and what it does not need. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .dag import Graph
from .errors import UnknownTarget
from .keys import Keys
from .wording import names, near_name


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph with its keys, and what is to be done with each node.

    run: nodes to compute, in topological order. reuse: nodes whose result the cache has, with its tier. Every other node is
    not needed. A cached value hides the nodes above it. What a Switch decides at run time counts as run here.
    """

    graph: Graph
    keys: Keys
    targets: tuple[str, ...]
    run: tuple[str, ...]
    reuse: Mapping[str, str]


def make_plan(
    graph: Graph,
    keys: Keys,
    tier_of: Callable[[str], str | None],
    targets: Iterable[str] | None = None,
) -> Plan:
    """Returns the plan for `targets` (the graph's own if None). `tier_of` says which cache tier has a key, or None.

    Raises UnknownTarget for a target that the graph does not have.
    """
    wanted = graph.targets if targets is None else tuple(targets)
    for target in wanted:
        if target not in graph.nodes:
            near = near_name(target, graph.nodes)
            hint = f" Did you mean {near!r}?" if near else ""
            raise UnknownTarget(f"there is no node {target!r} in {graph.name!r}; known: {names(graph.nodes)}.{hint}")
    run: set[str] = set()
    reuse: dict[str, str] = {}
    pending = list(wanted)
    while pending:
        id = pending.pop()
        if id in run or id in reuse:
            continue
        node = graph.nodes[id]
        tier = tier_of(keys[id]) if is_cached(graph, id) else None
        if tier is not None:
            reuse[id] = tier
            continue
        run.add(id)
        pending.extend(link.node for link in node.sources())
    return Plan(graph, keys, wanted, tuple(id for id in graph.nodes if id in run), reuse)


def is_cached(graph: Graph, id: str) -> bool:
    """Returns whether a node's result may come from a cache: not if it has an effect or is cheaper to make than to keep."""
    spec = graph.nodes[id].cls.spec
    return spec.cached and not spec.effect

"""Order: the nodes of a graph so that each comes after what it reads, or the cycles that forbid it."""

from __future__ import annotations

from collections.abc import Mapping

from .dag import GraphNode, Link, each_link
from .report import Problems
from .resolve import Flat

_MAX_SHOWN = 20  # links of a cycle


def in_order(nodes: Mapping[str, GraphNode], flat: Flat, problems: Problems) -> dict[str, GraphNode]:
    """Returns the nodes in topological order; those that depend on themselves are left out, with each cycle noted."""
    waiting: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for id, node in nodes.items():
        sources = {link.node for link in node.sources() if link.node in nodes}
        waiting[id] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(id)
    ready = [id for id, count in waiting.items() if count == 0]
    for id in ready:  # grows while it is read
        for reader in readers.get(id, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    if len(ready) < len(nodes):
        _note_cycles({id: nodes[id] for id, count in waiting.items() if count}, flat, problems)
    return {id: nodes[id] for id in ready}


def _note_cycles(stuck: Mapping[str, GraphNode], flat: Flat, problems: Problems) -> None:
    """Notes cycles: every stuck node reads a stuck node, so a walk from reader to source comes back to where it was."""
    walked: set[str] = set()
    for start in stuck:
        trail: dict[str, tuple[Link, str]] = {}
        id = start
        while id not in walked:
            walked.add(id)
            trail[id] = next(
                (link, f"{id}.{name}")
                for name, links in stuck[id].links.items()
                for link in each_link(links)
                if link.node in stuck
            )
            id = trail[id][0].node
        if id in trail:
            ids = list(trail)
            _note_cycle({one: trail[one] for one in reversed(ids[ids.index(id) :])}, flat, problems)


def _note_cycle(cycle: Mapping[str, tuple[Link, str]], flat: Flat, problems: Problems) -> None:
    """Notes a cycle: its readers in the order in which values would flow, with the link and the input of each."""
    links = [f"{link} -> {reader}" for link, reader in cycle.values()]
    more = f", and {len(links) - _MAX_SHOWN} links more" if len(links) > _MAX_SHOWN else ""
    message = f"it depends on itself: {', '.join(links[:_MAX_SHOWN])}{more}. Remove one of these links."
    id, (_, reader) = next(iter(cycle.items()))
    flat.nodes[id].note(problems, "cycle", message, reader.rpartition(".")[2])

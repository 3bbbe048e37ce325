"""Why a node would run: what of its key differs from the last run of the same document.

A `History` keeps, for each document, the parts of every key of its last run as JSON. It is a note beside the cache: losing it
costs an explanation and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dag import Graph, each_link
from .keys import key_parts
from .plan import Plan
from .wording import shown


@dataclass(frozen=True, slots=True)
class Explanation:
    """One node: whether it is a "hit" (with the tier), a "miss" or "not needed", and what changed since the last run."""

    node: str
    type: str
    status: str
    tier: str | None
    changes: tuple[str, ...]


class History:
    """The key parts of the last run of each document, below a folder; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def last(self, graph: Graph) -> Mapping[str, Mapping[str, Any]] | None:
        """Returns the key parts by node of the document's last run, or None if there was none."""
        path = self._path(graph)
        if path is None:
            return None
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def remember(self, graph: Graph, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps the parts of a run that was started."""
        path = self._path(graph)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(parts), "utf-8")
            draft.replace(path)
        except OSError:
            return  # without the note the next `explain` can't compare

    def _path(self, graph: Graph) -> Path | None:
        if self._folder is None:
            return None
        identity = str(graph.file.resolve()) if graph.file else graph.name
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"


def all_key_parts(plan: Plan, environment: str) -> dict[str, dict[str, Any]]:
    """Returns the key parts of every node, as JSON gives them back."""
    parts = {id: key_parts(node, plan.keys, environment) for id, node in plan.graph.nodes.items()}
    loaded: dict[str, dict[str, Any]] = json.loads(json.dumps(parts))
    return loaded


def explain(
    plan: Plan, parts: Mapping[str, Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Explanation, ...]:
    """Returns an explanation of each node, in topological order. `parts` are of now, `last` of the last run."""
    found: list[Explanation] = []
    running = frozenset(plan.run)
    for id, node in plan.graph.nodes.items():
        tier = plan.reuse.get(id)
        status = "hit" if tier else "miss" if id in running else "not needed"
        changes: tuple[str, ...] = ()
        if status == "miss":
            changes = _changes(plan.graph, id, parts[id], None if last is None else last.get(id), last is None)
        found.append(Explanation(id, node.cls.__name__, status, tier, changes))
    return tuple(found)


def _changes(
    graph: Graph, id: str, now: Mapping[str, Any], before: Mapping[str, Any] | None, first_run: bool
) -> tuple[str, ...]:
    spec = graph.nodes[id].cls.spec
    if spec.effect:
        return ("it has an effect, so it always runs",)
    if not spec.cached:
        return ("it is cheaper to make than to keep",)
    if first_run:
        return ("the document was not run before",)
    if before is None:
        return ("the node was not in the last run",)
    changes = [
        _words(graph, id, part, before, now) for part in now.keys() | before.keys() if now.get(part) != before.get(part)
    ]
    return tuple(sorted(changes)) or ("nothing changed; its result was never kept, or was dropped from the cache",)


def _words(graph: Graph, id: str, part: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    kind, _, name = part.partition(" ")
    if part not in before:
        return f"{part} is new"
    if part not in now:
        return f"{part} is gone"
    if kind == "file":
        path = graph.nodes[id].reads.get(name)
        return f"the content of file {name} changed" + (f" ({path})" if path else "")
    if kind == "link":
        sources = ", ".join(dict.fromkeys(link.node for link in each_link(graph.nodes[id].links[name])))
        return f"what {name} is linked to changed ({sources})"
    return f"{part}: {shown(before[part])} -> {shown(now[part])}"

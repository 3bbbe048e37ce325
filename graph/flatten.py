"""Graph back to document: one flat document without parameters, subgraphs or loops that does the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

from .dag import Graph, Link, Links
from .document import VERSION


def flat_document(graph: Graph) -> dict[str, Any]:
    """Returns the tree of a document that builds the same nodes with the same keys."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for id in graph.nodes:
        ids[id] = _free_name(re.sub(r"[^A-Za-z0-9_-]+", "_", id).strip("_"), taken)
        taken.add(ids[id])
    nodes: dict[str, Any] = {}
    for id, node in graph.nodes.items():
        tree: dict[str, Any] = {"type": node.cls.spec.type}
        for name, port in node.cls.spec.inputs.items():
            if name in node.links:
                tree[name] = _links(node.links[name], ids)
            elif name in node.files:
                tree[name] = _escaped(node.file_names[name])
            elif name in node.literals and (port.required or node.literals[name] != port.default):
                tree[name] = _escaped(node.literals[name])
        nodes[ids[id]] = tree
    outputs = {name: _links(links, ids) for name, links in graph.outputs.items()}
    return {"latentgraph": VERSION, "name": graph.name, "nodes": nodes, "outputs": outputs}


def _links(links: Links, ids: Mapping[str, str]) -> Any:
    if isinstance(links, Link):
        return f"${ids[links.node]}.{links.port}"
    if isinstance(links, Mapping):
        return {name: f"${ids[link.node]}.{link.port}" for name, link in links.items()}
    return [f"${ids[link.node]}.{link.port}" for link in links]


def _escaped(value: Any) -> Any:
    """Returns a literal as a document writes it: a dollar in a text is doubled."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def _free_name(name: str, taken: Set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate

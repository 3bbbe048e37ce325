"""Cache keys: what a node's result depends on, as one hash. Pure but for the fingerprints of files.

A key is SHA-256 over the scheme, the node's type and version, its literals in canonical form, the fingerprints of its files,
the keys of the nodes it reads, and for nodes of the device lane the numeric environment (precision and device class, which
change pixels). Each node is hashed once, so the work is linear in the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from .dag import Graph, GraphNode, Link, Links
from .fingerprints import Fingerprints, Look

SCHEME = "latentgraph key 1"
"""Named in every key: a change of what goes into a key changes this, and old entries are simply never asked for."""


class Keys(dict[str, str]):
    """Keys by node. `files` holds what each file was when the keys were made, so that a run can tell whether it still is."""

    def __init__(self, keys: Mapping[str, str] | None = None, files: Mapping[Path, Look] | None = None) -> None:
        super().__init__(keys or {})
        self.files: dict[Path, Look] = dict(files or {})


def cache_keys(graph: Graph, fingerprints: Fingerprints, environment: str = "") -> Keys:
    """Returns each node's key, hex. `environment` names what changes numbers, such as "auto/cpu/bfloat16".

    Raises FileNotUsable if a file of the graph vanished or changes while it is read.
    """
    keys = Keys()
    for id, node in graph.nodes.items():
        for path in node.reads.values():
            if path not in keys.files:
                keys.files[path] = fingerprints.look(path)
        keys[id] = sha256(json.dumps(_preimage(node, keys, environment), sort_keys=True).encode()).hexdigest()
    return keys


def key_parts(node: GraphNode, keys: Keys, environment: str = "") -> dict[str, Any]:
    """Returns the parts of a node's key by name, for comparing one run with another."""
    spec = node.cls.spec
    parts: dict[str, Any] = {"node type": spec.type, "node version": spec.version}
    if spec.lane == "device":
        parts["environment"] = environment
    parts.update({f"input {name}": value for name, value in node.literals.items()})
    parts.update({f"file {name}": keys.files[path].fingerprint for name, path in node.reads.items()})
    parts.update({f"link {name}": _linked(links, keys) for name, links in node.links.items()})
    return parts


def _preimage(node: GraphNode, keys: Keys, environment: str) -> list[Any]:
    spec = node.cls.spec
    return [
        SCHEME,
        spec.type,
        spec.version,
        environment if spec.lane == "device" else "",
        sorted(node.literals.items()),
        sorted((name, keys.files[path].fingerprint) for name, path in node.reads.items()) if node.reads else (),
        sorted((name, _linked(links, keys)) for name, links in node.links.items()),
    ]


def _linked(links: Links, keys: Mapping[str, str]) -> Any:
    if isinstance(links, Link):
        return keys[links.node], links.port
    if isinstance(links, Mapping):
        return sorted((name, keys[link.node], link.port) for name, link in links.items())
    return [(keys[link.node], link.port) for link in links]

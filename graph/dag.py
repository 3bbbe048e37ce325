"""Graph: a checked workflow. Immutable, in topological order, with every reference resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .facts import OutputFacts
from .node import Node
from .problems import Place, Problem

if TYPE_CHECKING:
    import networkx


class Link(NamedTuple):
    """An output port of a node."""

    node: str
    port: str

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


Links = Link | tuple[Link, ...] | Mapping[str, Link]
"""What an input is linked to: one port, several in order, or several by name."""


def each_link(links: Links) -> Iterator[Link]:
    """Yields the links of one input, in order."""
    if isinstance(links, Link):
        yield links
    elif isinstance(links, Mapping):
        yield from links.values()
    else:
        yield from links


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node: its class, its literals (defaults filled in), its links, and the files it reads, by path and as named.

    text_files: those that its texts name, by the name that was found. companions: those that are read along with its files, by
    their names; see `Companion`.
    """

    id: str
    cls: type[Node]
    literals: Mapping[str, Any]
    files: Mapping[str, Path]
    links: Mapping[str, Links]
    file_names: Mapping[str, str] = field(default_factory=dict)
    facts: OutputFacts = field(default_factory=dict)
    place: Place = Place()
    text_files: Mapping[str, Path] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)

    @property
    def reads(self) -> Mapping[str, Path]:
        """Every file that the node reads: by its input, as "text NAME" if a text names it, or as "companion NAME"."""
        if not self.text_files and not self.companions:
            return self.files
        texts = {f"text {name}": path for name, path in self.text_files.items()}
        companions = {f"companion {name}": path for name, path in self.companions.items()}
        return {**self.files, **texts, **companions}

    def sources(self) -> Iterator[Link]:
        """Yields every port that the node reads, in the order of its inputs."""
        for links in self.links.values():
            if isinstance(links, Link):
                yield links
            else:
                yield from each_link(links)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order, the outputs that the document names, and the values of its parameters."""

    name: str
    file: Path | None
    nodes: Mapping[str, GraphNode]
    outputs: Mapping[str, Link | tuple[Link, ...]]
    params: Mapping[str, Any]
    warnings: tuple[Problem, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The nodes that a run is for: those of the outputs, and those with an effect, in topological order."""
        wanted = {link.node for links in self.outputs.values() for link in each_link(links)}
        return tuple(id for id, node in self.nodes.items() if id in wanted or node.cls.spec.effect)

    def as_networkx(self) -> networkx.MultiDiGraph[str]:
        """Returns the graph for networkx: a node carries its GraphNode as `node`, an edge `port` and `input`."""
        import networkx

        graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
        graph.add_nodes_from((id, {"node": node}) for id, node in self.nodes.items())
        for id, node in self.nodes.items():
            for name, links in node.links.items():
                graph.add_edges_from((link.node, id, {"port": link.port, "input": name}) for link in each_link(links))
        return graph

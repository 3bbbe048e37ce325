"""Inference: facts flow along the links, and each node reports what can't go together. Nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .dag import GraphNode, Links, each_link
from .document import Document
from .errors import LatentGraphError
from .facts import ABSENT, NO_FACTS, Facts, Known
from .node import Node
from .report import Problems
from .resolve import Flat, FlatNode
from .source import value_mark


def infer_facts(ordered: Mapping[str, GraphNode], flat: Flat, problems: Problems) -> dict[str, GraphNode]:
    """Returns the nodes, in their order, with what is known of their outputs; what can't be right is noted."""
    inferred: dict[str, GraphNode] = {}
    for id, node in ordered.items():
        inferred[id] = node
        known = _noting_absent(flat.nodes[id], node, inferred, problems)
        if node.cls.infer.__func__ is Node.infer.__func__:  # type: ignore[attr-defined]
            continue

        def report(name: str, message: str, at: FlatNode = flat.nodes[id]) -> None:
            at.note(problems, "mismatch", f"input {name!r} {message}.", name)

        try:
            facts = node.cls.infer(Known(node.literals, known, node.files, report, node.text_files, node.companions))
        except LatentGraphError as error:
            name = _reading_input(node)
            code = "mismatch" if name is None else "unusable-file"
            flat.nodes[id].note(problems, code, f"{str(error).rstrip('.')}.", name)
            continue
        inferred[id] = replace(node, facts=facts)
    return inferred


def _reading_input(node: GraphNode) -> str | None:
    """Returns the first input that names a file, itself or in its text."""
    texts = (name for name, port in node.cls.spec.inputs.items() if port.in_text and node.text_files)
    return next(iter([*node.files, *texts]), None)


def note_absent_outputs(
    outputs: Mapping[str, Links], nodes: Mapping[str, GraphNode], document: Document, problems: Problems
) -> None:
    """Notes each output of the document that is linked to an output of a node without a value."""
    for name, links in outputs.items():
        for link, facts in zip(each_link(links), _facts(nodes, links), strict=True):
            if ABSENT in facts:
                message = f"output {name!r}: {link} has no value, because {facts[ABSENT]}."
                problems.add("absent-value", message, document.place(value_mark(document.outputs, name)))


def _facts(nodes: Mapping[str, GraphNode], links: Links) -> list[Facts]:
    """Returns the facts of each link of an input."""
    sources = ((nodes.get(link.node), link.port) for link in each_link(links))
    return [source.facts.get(port, NO_FACTS) if source else NO_FACTS for source, port in sources]


def _noting_absent(
    at: FlatNode, node: GraphNode, nodes: Mapping[str, GraphNode], problems: Problems
) -> dict[str, Sequence[Facts]]:
    """Returns the facts of each linked input. A value that will be absent is noted, and unknown from here on."""
    known: dict[str, Sequence[Facts]] = {}
    for name, links in node.links.items():
        known[name] = each = _facts(nodes, links)
        for index, (link, facts) in enumerate(zip(each_link(links), each, strict=True)):
            if ABSENT in facts:
                message = f"input {name!r}: {link} has no value, because {facts[ABSENT]}."
                at.note(problems, "absent-value", message, name)
                each[index] = NO_FACTS
    return known

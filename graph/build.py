"""Document and registry to Graph, or every problem at once. Nothing runs, and no weight is read.

Order of checks: node types, inputs and links, cycles, then facts along the links, then what is unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .dag import Graph, GraphNode, Links
from .document import Document
from .evaluate import MISSING, FileName, Ref
from .expand import expand
from .files import FileResolver, FolderResolver
from .infer import infer_facts, note_absent_outputs
from .links import Linker
from .named_files import NamedFiles
from .node import Node
from .order import in_order
from .ports import InputPort
from .registry import Registry
from .report import Problems
from .resolve import Flat, FlatNode, resolve
from .source import Limits, value_mark
from .switch import Switch
from .wording import names, shown


def build_graph(
    document: Document,
    registry: Registry,
    *,
    params: Mapping[str, Any] | None = None,
    resolver: FileResolver | None = None,
    params_base: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Graph:
    """Returns the checked graph of a document, with warnings.

    params: values for the document's parameters; file names among them are relative to `params_base` (the working folder
    if None). resolver: finds the files and documents that nodes name. Raises InvalidWorkflow with every problem found.
    """
    problems = Problems()
    resolver = resolver or FolderResolver()
    flat = expand(document, params or {}, problems, limits, resolver, params_base)
    builder = _Builder(flat, Registry((*registry.values(), Switch)), resolver, problems)
    nodes = builder.nodes()
    outputs = builder.linker.outputs(document)
    ordered = infer_facts(in_order(nodes, flat, problems), flat, problems)
    note_absent_outputs(outputs, ordered, document, problems)
    graph = Graph(document.name, document.file, ordered, outputs, flat.params)
    if not problems.errors:
        _warn_unused(graph, flat, document, problems)
        _warn_of_kinds(document, registry, problems)
    problems.raise_errors()
    return Graph(document.name, document.file, ordered, outputs, flat.params, problems.sorted())


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of a node that are right, by what they are; see GraphNode."""

    literals: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)
    links: dict[str, Links] = field(default_factory=dict)
    text_files: dict[str, Path] = field(default_factory=dict)
    companions: dict[str, Path] = field(default_factory=dict)


class _Builder:
    """Holds what the checks share: the flat document, the node types, and the problems found."""

    def __init__(self, flat: Flat, registry: Registry, resolver: FileResolver, problems: Problems) -> None:
        self.flat, self.registry, self.problems = flat, registry, problems
        self.classes = {node.id: registry.get(node.declaration.type) for node in flat.nodes.values()}
        self.linker = Linker(flat, self.classes, problems)
        self.files = NamedFiles(resolver, problems)

    def nodes(self) -> dict[str, GraphNode]:
        """Returns every node whose type is known, with the inputs that are right."""
        nodes: dict[str, GraphNode] = {}
        for flat in self.flat.nodes.values():
            cls = self.classes[flat.id]
            if cls is None:
                message = "there is no such node type; `latentgraph nodes` lists what there is."
                near = self.registry.near(flat.declaration.type)
                flat.note(self.problems, "unknown-type", message, "type", near)
                self.check_links(flat, flat.inputs)
            else:
                nodes[flat.id] = self.node(flat, cls)
        for flat in self.flat.unread:
            self.check_links(flat, flat.inputs)
        return nodes

    def node(self, flat: FlatNode, cls: type[Node]) -> GraphNode:
        """Returns a node with those of its inputs that are right."""
        inputs = _Inputs()
        unknown = [name for name in flat.inputs if name not in cls.spec.inputs]
        meant = {self.unknown_input(flat, cls, name) for name in unknown}
        self.check_links(flat, unknown)
        for port in cls.spec.inputs.values():
            if not (port.required and port.name in meant - flat.inputs.keys()):  # what is misspelt is not missing, too
                self.input(inputs, flat, port)
        return GraphNode(
            flat.id,
            cls,
            inputs.literals,
            inputs.files,
            inputs.links,
            inputs.file_names,
            place=flat.declaration.place,
            text_files=inputs.text_files,
            companions=inputs.companions,
        )

    def input(self, inputs: _Inputs, flat: FlatNode, port: InputPort) -> None:
        """Puts an input of a node among those of its kind, if it is right."""
        name, is_given = port.name, port.name in flat.inputs
        value = flat.inputs.get(name, port.default)
        if value is MISSING:
            return  # noted where it could not be evaluated
        if not is_given and port.required:
            message = f"input {name!r} is missing; it takes {port.expected}."
            flat.note(self.problems, "missing-input", message, name)
        elif (
            (not is_given and not (port.file and value is not None))
            or (value is None and port.optional)
            or (value == [] and port.shape == "list" and not port.literal)
        ):
            inputs.literals[name] = value
        elif isinstance(value, Ref) or not port.literal or (isinstance(value, list) and _has_ref(value)):
            if (linked := self.linker.links(flat, port, value)) is not None:
                inputs.links[name] = linked
        elif port.file:
            if (path := self.files.file(flat, port, value)) is not None:
                inputs.files[name] = path
                inputs.file_names[name] = str(value)
                inputs.companions.update(self.files.companions(port, path))
        elif (literal := self.literal(flat, port, value)) is not MISSING:
            inputs.literals[name] = literal
            if port.in_text is not None and isinstance(literal, str):
                inputs.text_files.update(self.files.text_files(flat, port, literal))

    def check_links(self, flat: FlatNode, inputs: Iterable[str]) -> None:
        """Notes links that are wrong whatever the inputs are that they stand in."""
        for name in inputs:
            self.linker.check(flat, name, flat.inputs[name])

    def literal(self, flat: FlatNode, port: InputPort, value: Any) -> Any:
        """Returns a literal as the node gets it, or MISSING if it is none for the port (noted)."""
        if isinstance(value, FileName):
            value = value.name
        converted, code = port.accept(value)
        if code:
            options = port.json_schema.get("enum", ())
            near = self.problems.near(value, options) if isinstance(value, str) else None
            message = f"input {port.name!r} is {shown(value)}; expected {port.expected}."
            flat.note(self.problems, code, message, port.name, near)
            return MISSING
        return converted

    def unknown_input(self, flat: FlatNode, cls: type[Node], name: str) -> str | None:
        """Notes an input that the node does not have; returns the one that is meant, if any. ComfyUI's names are understood."""
        known = cls.spec.inputs
        comfy = cls.spec.comfy.all if cls.spec.comfy else ()
        theirs = {their: ours for each in comfy for ours, their in each.inputs.items()}
        near = theirs.get(name) or self.problems.near(name, known)
        message = f"there is no input {name!r}; known: {names(known)}."
        flat.note(self.problems, "unknown-input", message, name, near, on_key=True)
        return near


def _has_ref(value: Any) -> bool:
    return any(isinstance(item, Ref) for item in value)


def _warn_of_kinds(document: Document, registry: Registry, problems: Problems) -> None:
    """Warns of parameters for files of a kind that no node reads, which is mostly a kind that is misspelt."""
    known = registry.file_types
    for name, param in document.params.items():
        if param.file_kind and param.type not in known:
            message = f"parameter {name!r}: no node reads files of the type {param.type!r}; known: {names(known)}."
            near = problems.near(param.type, known)
            problems.add("unknown-kind", message, param.place, near=near, severity="warning", param=name)


def _warn_unused(graph: Graph, flat: Flat, document: Document, problems: Problems) -> None:
    """Warns of declared nodes that no output and no effect needs, and refuses a document that asks for nothing."""
    needed = set(graph.targets)
    if not needed:
        message = (
            "nothing is asked for: name an output under 'outputs', or add a node with an effect such as SaveImage."
        )
        problems.add("no-output", message, document.place(value_mark(document.tree, "nodes")))
        return
    needed.update(target.node for ref in flat.spare for target in resolve(flat, ref).refs)
    for id in reversed(list(graph.nodes)):
        if id in needed:
            needed.update(link.node for link in graph.nodes[id].sources())
    for top, ids in flat.top.items():
        if ids and not needed.intersection(ids):
            declaration = document.nodes[top]
            message = "it is not used: no output and no saving node needs it."
            words = f"node {top!r} ({declaration.type}): {message}"
            problems.add("unused-node", words, declaration.place, node=top, severity="warning")

"""Document and registry to Graph, or every problem at once. Nothing runs, and no weight is read.

Order of checks: node types, inputs and links, cycles, then facts along the links, then what is unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .dag import Graph, GraphNode, Links
from .document import Document
from .errors import FileNotUsable
from .evaluate import MISSING, FileName, Ref
from .expand import expand
from .files import FileResolver, FolderResolver
from .infer import infer_facts, note_absent_outputs
from .links import Linker
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
    problems.raise_errors()
    return Graph(document.name, document.file, ordered, outputs, flat.params, problems.sorted())


class _Builder:
    """Holds what the checks share: the flat document, the node types, and the problems found."""

    def __init__(self, flat: Flat, registry: Registry, resolver: FileResolver, problems: Problems) -> None:
        self.flat, self.registry, self.resolver, self.problems = flat, registry, resolver, problems
        self.classes = {node.id: registry.get(node.declaration.type) for node in flat.nodes.values()}
        self.linker = Linker(flat, self.classes, problems)
        self.found: dict[tuple[str, FileName], Path | FileNotUsable] = {}

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
        literals: dict[str, Any] = {}
        files: dict[str, Path] = {}
        file_names: dict[str, str] = {}
        links: dict[str, Links] = {}
        text_files: dict[str, Path] = {}
        companions: dict[str, Path] = {}
        unknown = [name for name in flat.inputs if name not in cls.spec.inputs]
        for name in unknown:
            self.unknown_input(flat, cls, name)
        self.check_links(flat, unknown)
        for name, port in cls.spec.inputs.items():
            value = flat.inputs.get(name, port.default)
            if value is MISSING:
                continue  # noted where it could not be evaluated
            if name not in flat.inputs and port.required:
                message = f"input {name!r} is missing; it takes {port.expected}."
                flat.note(self.problems, "missing-input", message, name)
            elif (
                (name not in flat.inputs and not (port.file and value is not None))
                or (value is None and port.optional)
                or (value == [] and port.shape == "list" and not port.literal)
            ):
                literals[name] = value
            elif isinstance(value, Ref) or not port.literal or (isinstance(value, list) and _has_ref(value)):
                if (linked := self.linker.links(flat, port, value)) is not None:
                    links[name] = linked
            elif port.file:
                if (path := self.file(flat, port, value)) is not None:
                    files[name] = path
                    file_names[name] = str(value)
                    companions.update(self.companions(port, path))
            elif (literal := self.literal(flat, port, value)) is not MISSING:
                literals[name] = literal
                if port.in_text is not None and isinstance(literal, str):
                    text_files.update(self.text_files(flat, port, literal))
        return GraphNode(
            flat.id,
            cls,
            literals,
            files,
            links,
            file_names,
            place=flat.declaration.place,
            text_files=text_files,
            companions=companions,
        )

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

    def file(self, flat: FlatNode, port: InputPort, value: Any) -> Path | None:
        """Returns the path that a file input names, or None if there is none (noted)."""
        if not isinstance(value, str | FileName | Path) or port.file is None:
            message = f"input {port.name!r} is {shown(value)}; expected {port.expected}."
            flat.note(self.problems, "wrong-type", message, port.name)
            return None
        found = self.find(port.file.kind, value if isinstance(value, FileName) else FileName(str(value), flat.base))
        if isinstance(found, FileNotUsable):
            near = found.near[0] if found.near else None
            flat.note(self.problems, "file-not-found", f"input {port.name!r}: {found}.", port.name, near)
            return None
        return found

    def companions(self, port: InputPort, path: Path) -> Iterator[tuple[str, Path]]:
        """Yields the files that are read along with one, by name, as far as they are there."""
        if port.file is None or port.file.companions is None:
            return
        for each in port.file.companions(path):
            found = (self.find(each.kind, FileName(name, None)) for name in each.names)
            there = (where for where in (each.path, *found) if isinstance(where, Path))
            if (first := next(there, None)) is not None:
                yield each.name, first

    def text_files(self, flat: FlatNode, port: InputPort, text: str) -> Iterator[tuple[str, Path]]:
        """Yields the files that a text names, by name; one that is not there is left out with a warning."""
        for candidates in port.in_text.names(text) if port.in_text else ():
            for name in candidates:
                found = self.find(port.in_text.kind, FileName(name, flat.base)) if port.in_text else None
                if isinstance(found, Path):
                    yield name, found
                    break
            else:
                near = found.near[0] if isinstance(found, FileNotUsable) and found.near else None
                message = f"input {port.name!r}: {found}; it is left out."
                flat.note(self.problems, "file-not-found", message, port.name, near, severity="warning")

    def find(self, kind: str, wanted: FileName) -> Path | FileNotUsable:
        """Returns the path of a file, or why there is none; each is looked for once."""
        key = (kind, wanted)
        if key not in self.found:
            try:
                self.found[key] = self.resolver.resolve(kind, wanted.name, wanted.base)
            except FileNotUsable as error:
                self.found[key] = error
        return self.found[key]

    def unknown_input(self, flat: FlatNode, cls: type[Node], name: str) -> None:
        """Notes an input that the node does not have; ComfyUI's name for one is understood."""
        known = cls.spec.inputs
        comfy = cls.spec.comfy.all if cls.spec.comfy else ()
        theirs = {their: ours for each in comfy for ours, their in each.inputs.items()}
        near = theirs.get(name) or self.problems.near(name, known)
        message = f"there is no input {name!r}; known: {names(known)}."
        flat.note(self.problems, "unknown-input", message, name, near, on_key=True)


def _has_ref(value: Any) -> bool:
    return any(isinstance(item, Ref) for item in value)


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

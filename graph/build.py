"""Document and registry to Graph, or every problem at once. Nothing runs, and no weight is read.

Order of checks: node types, inputs and links, cycles, then facts along the links, then what is unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .dag import Graph, GraphNode, Link, Links, each_link
from .document import Document
from .errors import FileNotUsable, LatentGraphError
from .expand import MISSING, FileName, Flat, FlatNode, Missing, Ref, expand, resolve
from .facts import ABSENT, NO_FACTS, Facts, Known
from .files import FileResolver, FolderResolver
from .node import Node
from .ports import InputPort, OutputPort, type_name
from .problems import Place, Problems, names, near_name, shown
from .registry import Registry
from .source import Limits, key_mark, value_mark
from .switch import Switch


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
    if None). resolver: finds the files that nodes name. Raises InvalidWorkflow with every problem found.
    """
    problems = Problems()
    flat = expand(document, params or {}, problems, limits, params_base)
    builder = _Builder(flat, Registry((*registry.values(), Switch)), resolver or FolderResolver(), problems)
    nodes = builder.nodes()
    outputs = builder.outputs(document)
    ordered = builder.ordered(nodes)
    builder.infer(ordered)
    graph = Graph(document.name, document.file, ordered, outputs, flat.params)
    if not problems.errors:
        _warn_unused(graph, flat, document, problems)
    problems.raise_errors()
    return Graph(document.name, document.file, ordered, outputs, flat.params, problems.sorted())


class _Builder:
    """Holds what the checks share: the flat document, the node types, and the problems found."""

    def __init__(self, flat: Flat, registry: Registry, resolver: FileResolver, problems: Problems) -> None:
        self.flat, self.registry, self.resolver, self.problems = flat, registry, resolver, problems
        self.classes: dict[str, type[Node] | None] = {}
        self.switch_types: dict[str, OutputPort] = {}
        self.files: dict[tuple[str, FileName], Path | FileNotUsable] = {}

    def nodes(self) -> dict[str, GraphNode]:
        """Returns every node whose type is known, with the inputs that are right."""
        for node in self.flat.nodes.values():
            self.classes[node.id] = self.registry.get(node.declaration.type)
        self.type_switches()
        return {node.id: built for node in self.flat.nodes.values() if (built := self.node(node)) is not None}

    def node(self, flat: FlatNode) -> GraphNode | None:
        cls = self.classes[flat.id]
        if cls is None:
            self.unknown_type(flat)
            return None
        ports = cls.spec.inputs
        literals: dict[str, Any] = {}
        files: dict[str, Path] = {}
        file_names: dict[str, str] = {}
        links: dict[str, Links] = {}
        for name, value in flat.inputs.items():
            port = ports.get(name)
            if port is None:
                self.unknown_input(flat, cls, name)
            elif value is MISSING:
                continue
            elif isinstance(value, Ref) or not port.literal or (isinstance(value, list) and _has_ref(value)):
                linked = self.link(flat, port, value)
                if linked is not None:
                    links[name] = linked
                elif value is None and port.optional:
                    literals[name] = None
            elif port.file and not (value is None and port.optional):
                path = self.file(flat, port, value)
                if path is not None:
                    files[name] = path
                    file_names[name] = value.name if isinstance(value, FileName) else value
            elif (literal := self.literal(flat, port, value)) is not MISSING:
                literals[name] = literal
        for name, port in ports.items():
            if name in flat.inputs:
                continue
            if port.required:
                message = f"input {name!r} is missing; it takes {port.expected}."
                self.note(flat, "missing-input", message, name)
            elif port.file and port.default is not None:
                path = self.file(flat, port, str(port.default))
                if path is not None:
                    files[name] = path
                    file_names[name] = str(port.default)
            else:
                literals[name] = port.default
        return GraphNode(flat.id, cls, literals, files, links, file_names, place=flat.declaration.place)

    def literal(self, flat: FlatNode, port: InputPort, value: Any) -> Any:
        """Returns a literal as the node gets it, or MISSING if it is none for the port (noted)."""
        if isinstance(value, FileName):
            value = value.name
        converted, code = port.accept(value)
        if code:
            options = port.json_schema.get("enum", ())
            near = near_name(value, options) if isinstance(value, str) else None
            self.note(flat, code, f"input {port.name!r} is {shown(value)}; expected {port.expected}.", port.name, near)
            return MISSING
        return converted

    def file(self, flat: FlatNode, port: InputPort, value: Any) -> Path | None:
        if not isinstance(value, str | FileName) or port.file is None:
            message = f"input {port.name!r} is {shown(value)}; expected {port.expected}."
            self.note(flat, "wrong-type", message, port.name)
            return None
        wanted = value if isinstance(value, FileName) else FileName(value, flat.base)
        key = (port.file.kind, wanted)
        if key not in self.files:
            try:
                self.files[key] = self.resolver.resolve(port.file.kind, wanted.name, wanted.base)
            except FileNotUsable as error:
                self.files[key] = error
        found = self.files[key]
        if isinstance(found, FileNotUsable):
            near = found.near[0] if found.near else None
            self.note(flat, "file-not-found", f"input {port.name!r}: {found}.", port.name, near)
            return None
        return found

    def link(self, flat: FlatNode, port: InputPort, value: Any) -> Links | None:
        """Returns the links of one input, or None if something is wrong with them (noted) or there are none."""
        if port.shape == "map":
            if not isinstance(value, dict) or not value:
                self.not_a_link(flat, port, value)
                return None
            linked = {name: self.ports(flat, port, item) for name, item in value.items()}
            if any(len(found) != 1 for found in linked.values()):
                return None
            return {name: found[0] for name, found in linked.items()}
        found = self.ports(flat, port, value)
        if port.shape == "list" or (port.literal and isinstance(value, list)):
            return tuple(found) if found else None
        if len(found) > 1:
            words = value.words if isinstance(value, Ref) else "the list"
            message = (
                f"input {port.name!r} takes one {type_name(port.type)}, but {words!r} gives a list of {len(found)}; "
                f"loop over it with foreach: {{{port.name}: {words}}}."
            )
            self.note(flat, "wrong-type", message, port.name)
            return None
        return found[0] if found else None

    def ports(self, flat: FlatNode, port: InputPort, value: Any) -> list[Link]:
        """Returns the ports that a value is linked to, each checked against the input's type."""
        found: list[Link] = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Missing):
                continue
            if not isinstance(item, Ref):
                self.not_a_link(flat, port, item)
                continue
            for target in resolve(self.flat, item):
                if not isinstance(target, Ref):
                    code, message = target
                    if code:
                        self.bad_link(flat, port.name, item, code, message)
                    continue
                output = self.output(flat, port.name, target)
                if output is not None and self.fits(flat, port, item, target, output):
                    found.append(Link(target.node, output.name))
        return found

    def output(self, flat: FlatNode, name: str, target: Ref) -> OutputPort | None:
        """Returns the output port that a reference to a real node means, or None with the reason noted."""
        cls = self.classes.get(target.node)
        if cls is None:
            return None  # the unknown type is noted where it stands
        outputs = cls.spec.outputs
        shown_id = target.node.rpartition("/")[2]
        if target.port is None and len(outputs) == 1:
            return self.switch_types.get(target.node, outputs[0])
        known = names(port.name for port in outputs)
        if target.port is None:
            has = (
                f"has several outputs ({known}); name one, as ${shown_id}.{outputs[0].name}"
                if outputs
                else "has no output"
            )
            self.note(flat, "unknown-port", f"input {name!r}: node {shown_id!r} ({cls.__name__}) {has}.", name)
            return None
        port = cls.spec.output(target.port)
        if port is None:
            message = (
                f"input {name!r}: node {shown_id!r} ({cls.__name__}) has no output {target.port!r}; known: {known}."
            )
            self.note(flat, "unknown-port", message, name, near_name(target.port, [port.name for port in outputs]))
            return None
        return self.switch_types.get(target.node, port)

    def fits(self, flat: FlatNode, port: InputPort, ref: Ref, target: Ref, output: OutputPort) -> bool:
        if output.many and port.shape != "list":
            got = f"a list of {type_name(output.type)}"
        elif port.file is None and _compatible(output.type, port):
            return True
        else:
            got = type_name(output.type)
        message = f"input {port.name!r} takes {port.expected}, but {ref.words!r} gives {got}."
        self.note(flat, "wrong-type", message, port.name)
        return False

    def type_switches(self) -> None:
        """Gives each Switch that is decided at run time the type of its cases, which must be one type."""
        for flat in self.flat.nodes.values():
            if self.classes[flat.id] is not Switch or not isinstance(flat.inputs.get("cases"), dict):
                continue
            port = Switch.spec.inputs["cases"]
            found: dict[Any, str] = {}
            for case, value in flat.inputs["cases"].items():
                for target in resolve(self.flat, value) if isinstance(value, Ref) else ():
                    output = self.output(flat, port.name, target) if isinstance(target, Ref) else None
                    if output is not None:
                        found.setdefault(output.type, case)
            if len(found) > 1:
                kinds = ", ".join(f"{case!r} gives {type_name(kind)}" for kind, case in found.items())
                self.note(flat, "wrong-type", f"the cases have different types: {kinds}.", port.name)
            if found:
                self.switch_types[flat.id] = OutputPort("value", next(iter(found)))

    def outputs(self, document: Document) -> dict[str, Link | tuple[Link, ...]]:
        """Returns what the document's outputs are linked to."""
        outputs: dict[str, Link | tuple[Link, ...]] = {}
        for name, value in self.flat.outputs.items():
            place = document.place(value_mark(document.outputs, name))
            if isinstance(value, Missing):
                continue
            if not isinstance(value, Ref):
                message = f"output {name!r} is {shown(value)}; expected a link such as $node.port."
                self.problems.add("wrong-type", message, place)
                continue
            found: list[Link] = []
            for target in resolve(self.flat, value):
                if isinstance(target, Ref):
                    link = self.output_link(name, target, place)
                    found += [link] if link else []
                elif target[0]:
                    near = near_name(value.node, self.flat.top) if target[0] == "dangling-link" else None
                    self.problems.add(target[0], f"output {name!r}: {target[1]}.", place, near=near)
            if found:
                outputs[name] = found[0] if len(found) == 1 else tuple(found)
        return outputs

    def output_link(self, name: str, target: Ref, place: Place) -> Link | None:
        cls = self.classes.get(target.node)
        if cls is None:
            return None
        ports = cls.spec.outputs
        port = ports[0] if target.port is None and len(ports) == 1 else cls.spec.output(target.port or "")
        if port is None:
            shown_id = target.node.rpartition("/")[2]
            known = names(port.name for port in ports)
            found = (
                f"has no output {target.port!r}; known: {known}"
                if target.port
                else f"has the outputs {known}; name one"
            )
            message = f"output {name!r}: node {shown_id!r} ({cls.__name__}) {found}."
            self.problems.add(
                "unknown-port", message, place, near=near_name(target.port or "", [p.name for p in ports])
            )
            return None
        return Link(target.node, port.name)

    def ordered(self, nodes: dict[str, GraphNode]) -> dict[str, GraphNode]:
        """Returns the nodes in topological order, those of a cycle last with the cycle noted."""
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
        ordered = {id: nodes[id] for id in ready}
        if len(ordered) < len(nodes):
            self.note_cycle({id: node for id, node in nodes.items() if id not in ordered})
        return ordered

    def note_cycle(self, stuck: Mapping[str, GraphNode]) -> None:
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        label: dict[tuple[str, str], str] = {}
        for id, node in stuck.items():
            for name, links in node.links.items():
                for link in each_link(links):
                    if link.node in stuck:
                        graph.add_edge(link.node, id)
                        label.setdefault((link.node, id), f"{link} -> {id}.{name}")
        cycle = networkx.find_cycle(graph)
        first = self.flat.nodes[cycle[0][0]]
        path = ", ".join(label[edge[0], edge[1]] for edge in cycle[:20])
        path += f", and {len(cycle) - 20} links more" if len(cycle) > 20 else ""
        self.note(first, "cycle", f"it depends on itself: {path}. Remove one of these links.")

    def infer(self, ordered: dict[str, GraphNode]) -> None:
        """Lets facts flow along the links; each node reports what can't go together."""
        for id, node in ordered.items():
            flat = self.flat.nodes[id]
            known_facts = {name: self.facts(ordered, links) for name, links in node.links.items()}
            self.note_absent(flat, node, known_facts)
            if node.cls.infer.__func__ is Node.infer.__func__:  # type: ignore[attr-defined]
                continue

            def report(name: str, message: str, flat: FlatNode = flat) -> None:
                self.note(flat, "mismatch", f"input {name!r} {message}.", name)

            try:
                facts = node.cls.infer(Known(node.literals, known_facts, node.files, report))
            except LatentGraphError as error:
                code, name = ("unusable-file", next(iter(node.files))) if node.files else ("mismatch", None)
                self.note(flat, code, f"{str(error).rstrip('.')}.", name)
                continue
            ordered[id] = replace(node, facts=facts)

    def facts(self, ordered: Mapping[str, GraphNode], links: Links) -> list[Facts]:
        """Returns the facts of each link of an input."""
        sources = ((ordered.get(link.node), link.port) for link in each_link(links))
        return [source.facts.get(port, NO_FACTS) if source else NO_FACTS for source, port in sources]

    def note_absent(self, flat: FlatNode, node: GraphNode, known: Mapping[str, Sequence[Facts]]) -> None:
        """Notes each input that is linked to an output without a value."""
        for name, each in known.items():
            for link, facts in zip(each_link(node.links[name]), each, strict=True):
                if ABSENT in facts:
                    self.note(
                        flat, "absent-value", f"input {name!r}: {link} has no value, because {facts[ABSENT]}.", name
                    )

    def unknown_type(self, flat: FlatNode) -> None:
        kind = flat.declaration.type
        place = Place(flat.declaration.place.file, value_mark(flat.declaration.tree, "type"))
        message = f"node {flat.id!r}: there is no node type {kind[:80]!r}; `latentgraph nodes` lists what there is."
        self.problems.add("unknown-type", message, place, node=flat.id, near=self.registry.near(kind))

    def unknown_input(self, flat: FlatNode, cls: type[Node], name: str) -> None:
        known = names(cls.spec.inputs)
        place = Place(flat.declaration.place.file, key_mark(flat.declaration.tree, name))
        theirs = {their: ours for ours, their in cls.spec.comfy.inputs.items()} if cls.spec.comfy else {}
        near = theirs.get(name) or near_name(name, cls.spec.inputs)
        message = f"node {flat.id!r} ({cls.__name__}): there is no input {name!r}; known: {known}."
        self.problems.add("unknown-input", message, place, node=flat.id, input=name, near=near)

    def not_a_link(self, flat: FlatNode, port: InputPort, value: Any) -> None:
        if value is None and port.optional:
            return
        message = f"input {port.name!r} takes {port.expected}, by a link such as $node.port; found {shown(value)}."
        self.note(flat, "wrong-type", message, port.name)

    def bad_link(self, flat: FlatNode, name: str, ref: Ref, code: str, message: str) -> None:
        near = None
        if code == "dangling-link":
            scope, _, wanted = ref.node.rpartition("/")
            near = near_name(wanted, [id.removeprefix(f"{scope}/") for id in self.flat.nodes if id.startswith(scope)])
        self.note(flat, code, f"input {name!r}: {message}.", name, near)

    def note(self, flat: FlatNode, code: str, message: str, input: str | None = None, near: str | None = None) -> None:
        declaration = flat.declaration
        mark = value_mark(declaration.tree, input) if input else None
        if mark is None and input and declaration.foreach is not None:
            mark = value_mark(declaration.tree, "foreach")
        place = Place(declaration.place.file, mark or declaration.place.mark)
        words = f"node {flat.id!r} ({declaration.type}): {message}"
        self.problems.add(code, words, place, node=flat.id, input=input, near=near)


def _has_ref(items: Iterable[Any]) -> bool:
    return any(isinstance(item, Ref) for item in items)


def _compatible(given: Any, port: InputPort) -> bool:
    """Returns whether a value of class `given` can go into a port; a literal is checked again once it is known."""
    if port.type is Any or given is Any:
        return True
    if port.literal:
        kinds = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
        schema = port.json_schema
        parts = schema.get("anyOf", [schema])
        return any(given in kinds.get(part.get("type", ""), ()) for part in parts)
    return isinstance(given, type) and issubclass(given, port.type)


def _warn_unused(graph: Graph, flat: Flat, document: Document, problems: Problems) -> None:
    """Warns of declared nodes that no output and no effect needs, and refuses a document that asks for nothing."""
    needed = set(graph.targets)
    if not needed:
        message = (
            "nothing is asked for: name an output under 'outputs', or add a node with an effect such as SaveImage."
        )
        problems.add("no-output", message, document.place(value_mark(document.tree, "nodes")))
        return
    needed.update(target.node for ref in flat.spare for target in resolve(flat, ref) if isinstance(target, Ref))
    for id in reversed(list(graph.nodes)):
        if id in needed:
            needed.update(link.node for link in graph.nodes[id].sources())
    for top, ids in flat.top.items():
        if ids and not needed.intersection(ids):
            declaration = document.nodes[top]
            message = f"node {top!r} ({declaration.type}) is not used: no output and no saving node needs it."
            problems.add("unused-node", message, declaration.place, node=top, severity="warning")

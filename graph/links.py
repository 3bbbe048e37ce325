"""Links: what each input and output of a document is linked to, checked against the types of ports.

Whether an input takes one value or several follows from the document, never from how many there happen to be: a loop over a
list of one gives a list of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .dag import Link, Links
from .document import Document
from .evaluate import MISSING, Missing, Ref, refs_in
from .node import Node
from .ports import InputPort, OutputPort, type_name
from .report import Problems
from .resolve import Failure, Flat, FlatNode, Resolved, resolve
from .source import value_mark
from .switch import Switch
from .wording import names, shown

Note = Callable[[str, str, str | None], None]
"""Notes a problem with one input or output: code, message, near name."""


class Linker:
    """Finds the ports that references mean. `classes` has the class of each node, None for an unknown type."""

    def __init__(self, flat: Flat, classes: Mapping[str, type[Node] | None], problems: Problems) -> None:
        self.flat, self.classes, self.problems = flat, classes, problems
        self.switch_types: dict[str, OutputPort] = {}
        self._type_switches()
        self._check_used_documents()

    def links(self, node: FlatNode, port: InputPort, value: Any) -> Links | None:
        """Returns the links of one input, or None if something is wrong with them (noted) or there are none."""

        def note(code: str, message: str, near: str | None = None) -> None:
            node.note(self.problems, code, f"input {port.name!r}{message}", port.name, near)

        if port.shape == "map" and not port.literal:
            return self._map(port, value, note)
        if isinstance(value, list):
            if port.shape != "list" and not port.literal:
                note("wrong-type", f" takes {port.expected}, not a list.", None)
                return None
            found = [link for item in value for link in self._item(port, item, note)]
            return tuple(found) if found else None
        if not isinstance(value, Ref):
            scope, _ = self.flat.scope_of(node.id)
            self._not_a_link(port, value, note, _meant(value, scope.document) if scope else None)
            return None
        resolved = self._resolve(value, note)
        if port.shape == "list" or (port.literal and resolved.many):
            return tuple(self._fitting(port, value, resolved, note, in_list=True)) or None
        found = self._one(port, value, resolved, note)
        return found[0] if found else None

    def check(self, node: FlatNode, name: str, value: Any) -> None:
        """Notes what is wrong with the links in a value of an input that no port is known of."""

        def note(code: str, message: str, near: str | None = None) -> None:
            node.note(self.problems, code, f"input {name!r}{message}", name, near)

        for ref in refs_in(value):
            for target in self._resolve(ref, note).refs:
                self._output(target, note)

    def outputs(self, document: Document) -> dict[str, Link | tuple[Link, ...]]:
        """Returns what the document's outputs are linked to; several if a loop or a list is behind one."""
        outputs: dict[str, Link | tuple[Link, ...]] = {}
        for name, value in self.flat.outputs.items():
            links, _ = self._links_of_output(document, name, value)
            if links:
                outputs[name] = links
        return outputs

    def _check_used_documents(self) -> None:
        """Notes what is wrong with the outputs of documents used as nodes, there alone and not where they are used."""
        for prefix, scope in reversed(self.flat.scopes.items()):  # from the inside out
            alias = self.flat.aliases.get(prefix.removesuffix("/"))
            if alias is None or alias.ports is None:
                continue
            for name, value in list(alias.ports.items()):
                if isinstance(value, Ref) and not self._links_of_output(scope.document, name, value)[1]:
                    alias.ports = {**alias.ports, name: MISSING}

    def _links_of_output(
        self, document: Document, name: str, value: Any
    ) -> tuple[Link | tuple[Link, ...] | None, bool]:
        """Returns what an output of a document is linked to, and whether all of it is right; what is wrong is noted."""
        right = True

        def note(code: str, message: str, near: str | None = None) -> None:
            nonlocal right
            right = False
            place = document.place(value_mark(document.outputs, name))
            self.problems.add(code, f"output {name!r}{message}", place, near=near)

        if isinstance(value, Missing):
            return None, False
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, Ref) for item in items):
            message = f" is {shown(value)}; expected a link such as $node.port."
            note("wrong-type", message, _meant(value, document))
            return None, False
        many, found = isinstance(value, list), list[Link]()
        for ref in items:
            resolved = self._resolve(ref, note)
            many = many or resolved.many
            ports = ((target, self._output(target, note)) for target in resolved.refs)
            found += [Link(target.node, port.name) for target, port in ports if port is not None]
        return (tuple(found) if many else found[0]) if found else None, right

    def _map(self, port: InputPort, value: Any, note: Note) -> Links | None:
        if not isinstance(value, dict) or not value:
            self._not_a_link(port, value, note)
            return None
        linked: dict[str, Link] = {}
        for name, item in value.items():
            if not isinstance(item, Ref):
                self._not_a_link(port, item, note)
            else:
                found = self._one(port, item, self._resolve(item, note), note)
                if found:
                    linked[name] = found[0]
        return linked if len(linked) == len(value) else None

    def _item(self, port: InputPort, item: Any, note: Note) -> list[Link]:
        """Returns the links of one item of a list."""
        if not isinstance(item, Ref):
            if port.literal:
                note("wrong-type", f" takes a list of values or a list of links, not both; found {shown(item)}.", None)
            else:
                self._not_a_link(port, item, note)
            return []
        return self._fitting(port, item, self._resolve(item, note), note, in_list=True)

    def _one(self, port: InputPort, ref: Ref, resolved: Resolved, note: Note) -> list[Link]:
        """Returns the one link that a reference means, or none, with the reason noted."""
        if resolved.refs and resolved.many:
            message = f" takes {_one_of(port)}, but {ref.words!r} gives a list of {len(resolved.refs)}"
            hint = f"; loop over it with foreach: {{{port.name}: {ref.words}}}." if port.shape == "one" else "."
            note("wrong-type", message + hint, None)
            return []
        return self._fitting(port, ref, resolved, note, in_list=False)

    def _fitting(self, port: InputPort, ref: Ref, resolved: Resolved, note: Note, *, in_list: bool) -> list[Link]:
        """Returns the ports that a reference means and that fit an input; those that don't are noted."""
        found: list[Link] = []
        for target in resolved.refs:
            output = self._output(target, note)
            if output is None:
                continue
            if _fits(port, output, in_list):
                found.append(Link(target.node, output.name))
                continue
            got = f"a list of {type_name(output.type)}" if output.many else type_name(output.type)
            note("wrong-type", f" takes {port.expected}, but {ref.words!r} gives {got}.", None)
        return found

    def _resolve(self, ref: Ref, note: Note) -> Resolved:
        """Returns what a reference stands for, with its failures noted."""
        resolved = resolve(self.flat, ref)
        for failure in resolved.failures:
            if not self._is_noted(failure):
                note(failure.code, f": {failure.message}.", failure.near(self.flat, self.problems))
        return resolved

    def _is_noted(self, failure: Failure) -> bool:
        """Returns whether a failure follows from a node that could not be read or expanded, which is noted there."""
        if failure.unknown is None:
            return False
        scope, _ = self.flat.scope_of(failure.unknown)
        return scope is not None and scope.declares(failure.unknown)

    def _output(self, target: Ref, note: Note | None) -> OutputPort | None:
        """Returns the output port that a reference to a real node means, or None with the reason noted."""
        cls = self.classes.get(target.node)
        if cls is None:
            return None  # the unknown type is noted where it stands
        outputs = cls.spec.outputs
        port = outputs[0] if target.port is None and len(outputs) == 1 else cls.spec.output(target.port or "")
        if port is not None:
            return self.switch_types.get(target.node, port) if cls is Switch else port
        if note is None:
            return None
        name = target.node.rpartition("/")[2]
        known = names(port.name for port in outputs)
        if target.port is not None:
            near = self.problems.near(target.port, [port.name for port in outputs])
            message = f": node {name!r} ({cls.__name__}) has no output {target.port!r}; known: {known}."
            note("unknown-port", message, near)
        elif outputs:
            has = f"has several outputs ({known}); name one, as ${name}.{outputs[0].name}"
            note("unknown-port", f": node {name!r} ({cls.__name__}) {has}.", None)
        else:
            note("unknown-port", f": node {name!r} ({cls.__name__}) has no output.", None)
        return None

    def _not_a_link(self, port: InputPort, value: Any, note: Note, near: str | None = None) -> None:
        if value is not None or not port.optional:
            message = f" takes {port.expected}, by a link such as $node.port; found {shown(value)}."
            note("wrong-type", message, near)

    def _type_switches(self) -> None:
        """Gives each Switch that is decided at run time the type of its cases, which must be one."""
        for node in self.flat.nodes.values():
            cases = node.inputs.get("cases")
            if self.classes[node.id] is not Switch or not isinstance(cases, dict):
                continue
            found: dict[OutputPort, str] = {}
            for case, value in cases.items():
                for target in resolve(self.flat, value).refs if isinstance(value, Ref) else ():
                    output = self._output(target, None)
                    if output is not None and output.type is not Any:
                        found.setdefault(OutputPort("value", output.type, output.many), case)
            if len(found) > 1:
                kinds = ", ".join(f"{case!r} gives {type_name(kind.type)}" for kind, case in found.items())
                message = f"input 'cases': the cases have different types: {kinds}."
                node.note(self.problems, "wrong-type", message, "cases")
            if found:
                self.switch_types[node.id] = next(iter(found))


def _meant(value: Any, document: Document) -> str | None:
    """Returns the link that a text without its dollar means, None if it names no node of the document."""
    is_name = isinstance(value, str) and value.partition(".")[0] in document.nodes
    return f"${value}" if is_name else None


def _one_of(port: InputPort) -> str:
    return type_name(port.type) if not port.literal else port.expected


def _fits(port: InputPort, output: OutputPort, in_list: bool) -> bool:
    """Returns whether an output's value can go into an input; a literal is checked again once it is known."""
    if port.file is not None:
        return False
    if port.type is Any or output.type is Any:
        return True
    if port.literal:
        return output.type in (port.item_kinds if in_list or output.many else port.kinds)
    if output.many and port.shape != "list":
        return False
    return isinstance(output.type, type) and issubclass(output.type, port.type)

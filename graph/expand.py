"""Expansion: subgraphs become their nodes, `foreach` becomes copies, parameters become values.

What comes out is flat: nodes with full ids (`hires/sample`, `sample[2]`), and aliases that say what a reference to a
subgraph, a foreach or a settled Switch stands for. No type is checked here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .document import Document, NodeDeclaration, is_document
from .evaluate import MISSING, Budget, FileName, Missing, Note, Origin, Ref, Scope, evaluate, param_value, refs_in
from .files import FileResolver
from .foreach import copies_of
from .params import bind_params
from .report import Problems
from .resolve import Alias, Flat, FlatNode, resolve
from .source import Limits, value_mark
from .switch import Switch, case_of
from .uses import UsedDocuments
from .wording import names, shown


def expand(
    document: Document,
    given: Mapping[str, Any],
    problems: Problems,
    limits: Limits,
    resolver: FileResolver,
    given_base: Path | None = None,
) -> Flat:
    """Returns the document flat, with `given` values for its parameters; what is wrong is noted in `problems`.

    resolver: finds the documents that it uses. given_base: the folder that given file names are relative to.
    """
    problems.extend(document.problems)
    values = bind_params(document.params, given, problems, file=document.label, where=resolver.where)
    flat = Flat(Budget(limits, problems, document.place(value_mark(document.tree, "nodes"))), params=dict(values))
    scope = Scope(document, "", {}, _origin(document), document)
    for name, value in values.items():
        param = document.params[name]
        scope.params[name] = param_value(param, value, given_base if name in given else scope.base)
        if param.is_value:
            message = f"parameter {name!r} takes a {param.type}, which only a document that uses this one can give it."
            problems.add("wrong-type", message, param.place, param=name)
    expander = _Expander(flat, problems, limits, resolver)
    expander.run(scope)
    flat.outputs = expander.outputs(scope)
    return flat


class _Expander:
    """Expands scopes one after another; a foreach over a link waits until what it is linked to is expanded."""

    def __init__(self, flat: Flat, problems: Problems, limits: Limits, resolver: FileResolver) -> None:
        self.flat, self.problems, self.limits = flat, problems, limits
        self.work: deque[tuple[Scope, NodeDeclaration]] = deque()
        self.waiting: dict[str, list[tuple[Scope, NodeDeclaration]]] = {}
        self.uses = UsedDocuments(resolver, limits, problems)

    def run(self, root: Scope) -> None:
        """Expands the document of a scope and those that it uses."""
        self.enter(root)
        while self.work:
            scope, declaration = self.work.popleft()
            if scope.top is None:
                self.flat.top.setdefault(declaration.id, [])
            self.declare(scope, declaration)
        for group in self.waiting.values():
            for scope, declaration in group:
                message = "'foreach' loops over a value whose length depends on the node itself."
                self.note(scope, declaration, "foreach", "cycle", message)

    def enter(self, scope: Scope) -> None:
        self.flat.scopes[scope.prefix] = scope
        self.work.extendleft((scope, node) for node in reversed(list(scope.document.nodes.values())))

    def outputs(self, scope: Scope) -> dict[str, Any]:
        """Returns the outputs of a scope's document, evaluated."""
        outputs: dict[str, Any] = {}
        for name, raw in scope.document.outputs.items():
            place = scope.document.place(value_mark(scope.document.outputs, name))

            def note(code: str, message: str, near: str | None = None, name: str = name, place: Any = place) -> None:
                self.problems.add(code, f"output {name!r}: {message}", place, near=near)

            outputs[name] = evaluate(raw, scope, self.flat.budget, self.problems, note)
        return outputs

    def declare(self, scope: Scope, declaration: NodeDeclaration) -> None:
        full_id = scope.prefix + declaration.id
        if declaration.foreach is None:
            self.one(scope, declaration, full_id, {})
        else:
            copies = self.copies(scope, declaration)
            if copies is None:
                return
            ids = [f"{full_id}[{index}]" for index in range(len(copies))]
            self.flat.aliases[full_id] = Alias(None, [Ref(id, None, f"${declaration.id}") for id in ids])
            for id, values in zip(ids, copies, strict=True):
                self.one(scope, declaration, id, values)
        self.work.extend(self.waiting.pop(full_id, []))

    def one(self, scope: Scope, declaration: NodeDeclaration, full_id: str, loop: Mapping[str, Any]) -> None:
        """Adds one copy of a declared node: a node, a settled Switch, or the scope of a subgraph."""
        self.flat.budget.spend()
        inputs = {name: self.value(scope, declaration, name, raw) for name, raw in declaration.inputs.items()}
        inputs.update(loop)
        if is_document(declaration.type):
            self.subgraph(scope, declaration, full_id, inputs)
            return
        if declaration.type == Switch.spec.type and self.settled(scope, declaration, full_id, inputs):
            return
        if len(self.flat.nodes) >= self.limits.nodes:
            message = f"the workflow expands to more than {self.limits.nodes:,} nodes."
            self.problems.add("limit-nodes", message, declaration.place)
            self.problems.raise_errors()
        self.flat.nodes[full_id] = FlatNode(full_id, declaration, scope.base, inputs)
        self.flat.top.setdefault(scope.top or declaration.id, []).append(full_id)

    def value(self, scope: Scope, declaration: NodeDeclaration, name: str, raw: Any) -> Any:
        """Returns an input of a node, evaluated."""
        if isinstance(raw, str):
            if "$" not in raw:
                return raw
        elif not isinstance(raw, list | dict):
            return raw
        return evaluate(raw, scope, self.flat.budget, self.problems, self.noting(scope, declaration, name))

    def settled(self, scope: Scope, declaration: NodeDeclaration, full_id: str, inputs: dict[str, Any]) -> bool:
        """Returns whether the node is a Switch whose choice is known; then its alias is the chosen case."""
        select, cases = inputs.get("select"), inputs.get("cases")
        if (
            not isinstance(cases, dict)
            or not isinstance(select, str | int | bool)
            or inputs.keys() - {"select", "cases"}
        ):
            return False
        case = case_of(select, cases)
        if case is None:
            near = self.problems.near(str(select), cases)
            message = f"input 'select' is {shown(select)}; expected one of {names(cases)}."
            self.note(scope, declaration, "select", "not-in-list", message, near)
        self.flat.spare += [value for name, value in cases.items() if name != case and isinstance(value, Ref)]
        self.flat.aliases[full_id] = Alias({"value": cases[case] if case is not None else MISSING})
        return True

    def copies(self, scope: Scope, declaration: NodeDeclaration) -> list[dict[str, Any]] | None:
        """Returns the inputs of each copy, or None if they can't be told (yet)."""

        def items(name: str, raw: Any) -> list[Any] | None:
            return self.items(scope, declaration, name, raw)

        def note(code: str, message: str) -> None:
            self.note(scope, declaration, "foreach", code, message)

        return copies_of(declaration.foreach or {}, items, self.limits.nodes, note)

    def items(self, scope: Scope, declaration: NodeDeclaration, name: str, raw: Any) -> list[Any] | None:
        """Returns what a loop goes over, nothing if that is wrong (noted), None if it is not expanded yet."""
        value = self.value(scope, declaration, "foreach", raw) if isinstance(raw, str | list) else raw
        if isinstance(value, Missing):
            return []
        if not isinstance(value, Ref):
            if isinstance(value, list) and value:
                return list(value)
            message = f"'foreach': {name!r} is {shown(value)}; expected a list with something in it, or a link to one."
            self.note(scope, declaration, "foreach", "wrong-type", message)
            return []
        found = resolve(self.flat, value)
        for failure in found.failures:
            if failure.unknown is not None:
                owner, wanted = self.flat.scope_of(failure.unknown)
                if owner is not None and wanted in owner.document.nodes:
                    self.waiting.setdefault(failure.unknown, []).append((scope, declaration))
                    return None
                if owner is not None and owner.declares(failure.unknown):
                    continue
            near = failure.near(self.flat, self.problems)
            self.note(scope, declaration, "foreach", failure.code, f"'foreach': {failure.message}.", near)
        if found.refs and not found.many:
            message = f"'foreach' loops over {value.words!r}, which is one value and no list of known length."
            self.note(scope, declaration, "foreach", "wrong-type", message)
            return []
        return list(found.refs)

    def subgraph(self, scope: Scope, declaration: NodeDeclaration, full_id: str, inputs: dict[str, Any]) -> None:
        """Enters the document that a node's type names, with the node's inputs as its parameters."""
        used = self.uses.document_of(scope, declaration)
        if used is None:
            self.flat.aliases[full_id] = Alias(None)
            self.flat.unread.append(FlatNode(full_id, declaration, scope.base, inputs))
            return
        document = used.document
        unknown = {name: value for name, value in inputs.items() if name not in document.params}
        if unknown:
            self.flat.unread.append(FlatNode(full_id, declaration, scope.base, unknown))
        for name in unknown:
            message = f"there is no input {name!r}; known: {names(document.params)}."
            near = self.problems.near(name, document.params)
            self.note(scope, declaration, name, "unknown-input", message, near, on_key=True)
        chain = (*scope.chain, used.origin)
        inner = Scope(document, f"{full_id}/", {}, chain, used.library, used.folder, scope.top or declaration.id)
        for name, param in document.params.items():
            if name not in inputs and param.required:
                message = f"input {name!r} is missing; it takes {param.expected}."
                self.note(scope, declaration, name, "missing-input", message)
                inner.params[name] = MISSING
            elif name not in inputs:
                inner.params[name] = param_value(param, param.default, inner.base)
            else:
                inner.params[name] = self.argument(scope, declaration, inner, name, inputs[name])
        self.flat.aliases[full_id] = Alias(self.outputs(inner))
        self.enter(inner)

    def argument(self, scope: Scope, declaration: NodeDeclaration, inner: Scope, name: str, value: Any) -> Any:
        """Returns a value given to a parameter of a subgraph, or MISSING if the parameter does not take it (noted)."""
        param = inner.document.params[name]
        for ref in refs_in(value):
            node = ref.node.removeprefix(scope.prefix).partition("[")[0]  # one of a loop is as good as its node
            written_here = ref.node.startswith(scope.prefix) and "/" not in node
            if written_here and not scope.declares(scope.prefix + node):
                near = self.problems.near(node, scope.document.nodes)
                self.note(
                    scope, declaration, name, "dangling-link", f"input {name!r}: there is no node {node!r}.", near
                )
                return MISSING
        if isinstance(value, Ref | Missing) or (isinstance(value, FileName) and param.file_kind):
            return value
        if param.is_value and isinstance(value, list) and value and all(isinstance(item, Ref) for item in value):
            return value
        code = "wrong-type" if param.is_value else param.check(str(value) if isinstance(value, FileName) else value)
        if code is None:
            return param_value(param, value, scope.base)
        message = f"input {name!r} is {shown(value)}; expected {param.expected}."
        self.note(scope, declaration, name, code, message)
        return MISSING

    def noting(self, scope: Scope, declaration: NodeDeclaration, name: str) -> Note:
        """Returns what notes a problem with the value of an input."""

        def note(code: str, message: str, near: str | None = None) -> None:
            words = f"'foreach': {message}" if name == "foreach" else f"input {name!r}: {message}"
            self.note(scope, declaration, name, code, words, near)

        return note

    def note(
        self,
        scope: Scope,
        declaration: NodeDeclaration,
        name: str,
        code: str,
        message: str,
        near: str | None = None,
        on_key: bool = False,
    ) -> None:
        id = scope.prefix + declaration.id
        declaration.note(self.problems, code, message, id=id, input=name, near=near, on_key=on_key)


def _origin(document: Document) -> tuple[Origin, ...]:
    return (Origin(document.file.resolve(), document.file.name),) if document.file else ()

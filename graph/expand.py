"""Expansion: subgraphs become their nodes, `foreach` becomes copies, parameters become values.

What comes out is flat: nodes with full ids (`hires/sample`, `sample[2]`), and aliases that say what a reference to a
subgraph, a foreach or a settled Switch stands for. No type is checked here.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .document import Document, NodeDeclaration, load_document
from .errors import InvalidWorkflow
from .params import Param, bind_params
from .problems import Place, Problems, names, near_name, shown
from .references import BadReference, ParamReference, Reference, Template, parse_value
from .source import Limits, key_mark, value_mark
from .switch import Switch, case_of

MAX_SUBGRAPH_DEPTH = 8
"""How deep documents may use documents."""


class Ref(NamedTuple):
    """A reference to a full node id, with the words the document used for it."""

    node: str
    port: str | None
    words: str


class FileName(NamedTuple):
    """The value of a file parameter, with the folder that it is relative to."""

    name: str
    base: Path | None


class Missing(NamedTuple):
    """Stands for a value that could not be made; the reason is noted already."""


MISSING = Missing()


@dataclass(slots=True)
class FlatNode:
    """A node with its inputs evaluated to literals, Refs, FileNames, and lists and maps of them."""

    id: str
    declaration: NodeDeclaration
    base: Path | None
    inputs: dict[str, Any]


@dataclass(slots=True)
class Alias:
    """What a reference to an id stands for when no node has that id: values by port name; None if any port will do."""

    ports: Mapping[str, Any] | None
    value: Any = None


@dataclass(slots=True)
class Flat:
    """The expanded document.

    top: the ids that each declared node became. spare: what the cases that a settled Switch did not take refer to.
    """

    nodes: dict[str, FlatNode] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    top: dict[str, list[str]] = field(default_factory=dict)
    spare: list[Ref] = field(default_factory=list)


@dataclass(slots=True)
class _Scope:
    """One document in use: the prefix of its ids, the values of its parameters, and the files that led to it."""

    document: Document
    prefix: str
    params: dict[str, Any]
    chain: tuple[Path, ...]
    top: str | None = None

    @property
    def base(self) -> Path | None:
        return self.document.file.resolve().parent if self.document.file else None


def expand(
    document: Document,
    given: Mapping[str, Any],
    problems: Problems,
    limits: Limits,
    given_base: Path | None = None,
) -> Flat:
    """Returns the document flat, with `given` values for its parameters; what is wrong is noted in `problems`."""
    problems.extend(document.problems)
    values = bind_params(document.params, given, problems, file=document.label)
    flat = Flat(params=dict(values))
    scope = _Scope(document, "", {}, (document.file.resolve(),) if document.file else ())
    for name, value in values.items():
        param = document.params[name]
        scope.params[name] = _param_value(param, value, given_base if name in given else scope.base)
        if param.is_value:
            message = f"parameter {name!r} takes a {param.type}, which only a document that uses this one can give it."
            problems.add("wrong-type", message, param.place)
    _Expander(flat, problems, limits).run(scope)
    flat.outputs = {
        name: _evaluate(value, scope, problems, document.place(value_mark(document.outputs, name)), f"output {name!r}")
        for name, value in document.outputs.items()
    }
    return flat


def resolve(flat: Flat, ref: Ref) -> Iterator[Ref | tuple[str, str]]:
    """Yields the nodes that a reference stands for, in order, as Refs to real nodes; (code, words) for what can't be.

    Values that are no reference (a literal chosen by a Switch, say) can't be linked to and are such a failure.
    """
    pending: deque[tuple[Any, int]] = deque([(ref, 0)])
    while pending:
        value, hops = pending.popleft()
        if isinstance(value, list):
            pending.extendleft((item, hops) for item in reversed(value))
            continue
        if isinstance(value, Missing):
            yield "", ""
            continue
        if not isinstance(value, Ref):
            yield "wrong-type", f"{ref.words!r} stands for {shown(value)}, which is no node"
            continue
        if value.node in flat.nodes:
            yield value
            continue
        alias = flat.aliases.get(value.node)
        if alias is None:
            yield "dangling-link", f"there is no node {value.node.rpartition('/')[2]!r}"
        elif hops > len(flat.aliases):
            yield "cycle", f"{ref.words!r} stands for itself"
        elif alias.ports is None:
            following = [item._replace(port=value.port) if isinstance(item, Ref) else item for item in alias.value]
            pending.extendleft((item, hops + 1) for item in reversed(following))
        elif value.port is None and len(alias.ports) == 1:
            pending.appendleft((next(iter(alias.ports.values())), hops + 1))
        elif value.port is not None and value.port in alias.ports:
            pending.appendleft((alias.ports[value.port], hops + 1))
        elif value.port is None:
            yield "unknown-port", f"{ref.words!r} has several outputs ({names(alias.ports)}); name one"
        else:
            yield "unknown-port", f"{ref.words!r} names no output; known: {names(alias.ports)}"


class _Expander:
    """Expands scopes one after another; a foreach over a link waits until what it is linked to is expanded."""

    def __init__(self, flat: Flat, problems: Problems, limits: Limits) -> None:
        self.flat, self.problems, self.limits = flat, problems, limits
        self.work: deque[tuple[_Scope, NodeDeclaration]] = deque()
        self.waiting: dict[str, list[tuple[_Scope, NodeDeclaration]]] = {}
        self.documents: dict[Path, Document] = {}

    def run(self, root: _Scope) -> None:
        self.work.extend((root, declaration) for declaration in root.document.nodes.values())
        while self.work:
            scope, declaration = self.work.popleft()
            if scope.top is None:
                self.flat.top.setdefault(declaration.id, [])
            self.declare(scope, declaration)
        for group in self.waiting.values():
            for scope, declaration in group:
                message = "loops over a value whose length depends on the node itself, or on no node of this document."
                self.note(scope, declaration, "foreach", "cycle", message)

    def declare(self, scope: _Scope, declaration: NodeDeclaration) -> None:
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
        self.work.extendleft(reversed(self.waiting.pop(full_id, [])))

    def one(self, scope: _Scope, declaration: NodeDeclaration, full_id: str, loop: Mapping[str, Any]) -> None:
        """Adds one copy of a declared node: a node, a settled Switch, or the scope of a subgraph."""
        inputs = {name: self.value(scope, declaration, name, raw) for name, raw in declaration.inputs.items()}
        inputs.update(loop)
        if _is_path(declaration.type):
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

    def value(self, scope: _Scope, declaration: NodeDeclaration, name: str, raw: Any) -> Any:
        if isinstance(raw, str):
            if "$" not in raw:
                return raw
        elif not isinstance(raw, list | dict):
            return raw
        place = scope.document.place(value_mark(declaration.tree, name))
        words = f"node {declaration.id!r} ({declaration.type}): input {name!r}"
        return _evaluate(raw, scope, self.problems, place, words, declaration.id, name)

    def settled(self, scope: _Scope, declaration: NodeDeclaration, full_id: str, inputs: dict[str, Any]) -> bool:
        """Returns whether the node is a Switch whose choice is known; then its alias is the chosen case."""
        select, cases = inputs.get("select"), inputs.get("cases")
        if isinstance(select, Ref | Missing) or not isinstance(cases, dict) or not isinstance(select, str | int | bool):
            return False
        case = case_of(select, cases)
        if case is None:
            near = near_name(str(select), cases)
            message = f"'select' is {shown(select)}; expected one of {names(cases)}."
            self.note(scope, declaration, "select", "not-in-list", message, near)
        self.flat.spare += [value for name, value in cases.items() if name != case and isinstance(value, Ref)]
        self.flat.aliases[full_id] = Alias({"value": cases[case] if case is not None else MISSING})
        return True

    def copies(self, scope: _Scope, declaration: NodeDeclaration) -> list[dict[str, Any]] | None:
        """Returns the inputs of each copy, or None if they can't be told (yet)."""
        loop = dict(declaration.foreach or {})
        mode = next((key for key in ("zip", "product") if isinstance(loop.get(key), dict)), None)
        if mode and len(loop) == 1:
            loop = loop[mode]
        elif len(loop) > 1:
            message = "has several lists; say how they go together: {zip: {...}} or {product: {...}}."
            self.note(scope, declaration, "foreach", "ambiguous-foreach", message)
            return []
        lists: dict[str, list[Any]] = {}
        for name, raw in loop.items():
            items = self.items(scope, declaration, name, raw)
            if items is None:
                return None
            lists[name] = items
        count = 1
        for items in lists.values():
            count = count * len(items) if mode == "product" else max(count, len(items))
        if count > self.limits.nodes:
            self.note(
                scope, declaration, "foreach", "limit-nodes", f"makes {count:,} copies; at most {self.limits.nodes:,}."
            )
            return []
        if mode == "product":
            return [dict(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values())]
        lengths = {name: len(items) for name, items in lists.items()}
        if len(set(lengths.values())) > 1:
            message = f"zips lists of different lengths: {', '.join(f'{n} has {k}' for n, k in lengths.items())}."
            self.note(scope, declaration, "foreach", "wrong-length", message)
            return []
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

    def items(self, scope: _Scope, declaration: NodeDeclaration, name: str, raw: Any) -> list[Any] | None:
        value = self.value(scope, declaration, "foreach", raw) if isinstance(raw, str | list) else raw
        if isinstance(value, Ref):
            if value.node not in self.flat.aliases and value.node not in self.flat.nodes:
                self.waiting.setdefault(value.node, []).append((scope, declaration))
                return None
            found = list(resolve(self.flat, value))
            if len(found) == 1 and value.node in self.flat.nodes:
                message = f"loops over {value.words!r}, which is one value and no list of known length."
                self.note(scope, declaration, "foreach", "wrong-type", message)
                return []
            return [item if isinstance(item, Ref) else MISSING for item in found]
        if isinstance(value, Missing):
            return []
        if not isinstance(value, list) or not value:
            message = f"{name!r} is {shown(value)}; expected a list with something in it, or a link to one."
            self.note(scope, declaration, "foreach", "wrong-type", message)
            return []
        return list(value)

    def subgraph(self, scope: _Scope, declaration: NodeDeclaration, full_id: str, inputs: dict[str, Any]) -> None:
        self.flat.aliases[full_id] = Alias({})
        document = self.document_of(scope, declaration)
        if document is None:
            self.flat.aliases[full_id] = Alias(None, [MISSING])
            return
        given = {name: value for name, value in inputs.items() if name in document.params}
        for name in inputs.keys() - given.keys():
            known = names(document.params)
            message = f"has the unknown input {name!r}; {declaration.type} takes {known}."
            self.note(scope, declaration, name, "unknown-input", message, near_name(name, document.params), on_key=True)
        inner = _Scope(document, f"{full_id}/", {}, (*scope.chain, *_files(document)), scope.top or declaration.id)
        for name, param in document.params.items():
            if name not in given:
                if param.required:
                    self.note(scope, declaration, "type", "missing-input", f"lacks input {name!r}: {param.expected}.")
                inner.params[name] = MISSING if param.required else _param_value(param, param.default, inner.base)
                continue
            value = given[name]
            plain = not isinstance(value, Ref | Missing | FileName)
            if plain and (param.is_value or param.check(value)):
                code = "wrong-type" if param.is_value else param.check(value) or ""
                self.note(
                    scope, declaration, name, code, f"input {name!r} is {shown(value)}; expected {param.expected}."
                )
                value = MISSING
            inner.params[name] = _param_value(param, value, scope.base) if plain else value
        self.flat.aliases[full_id] = Alias(
            {
                name: _evaluate(raw, inner, self.problems, document.place(value_mark(document.outputs, name)), name)
                for name, raw in document.outputs.items()
            }
        )
        self.work.extendleft((inner, inside) for inside in reversed(list(document.nodes.values())))

    def document_of(self, scope: _Scope, declaration: NodeDeclaration) -> Document | None:
        """Returns the document that a node's type names, or None with the reason noted."""
        path = ((scope.base or Path.cwd()) / declaration.type).resolve()
        if path in scope.chain:
            chain = " -> ".join(file.name for file in (*scope.chain, path))
            self.note(scope, declaration, "type", "cycle", f"the document uses itself: {chain}.")
            return None
        if len(scope.chain) > MAX_SUBGRAPH_DEPTH:
            message = f"documents use documents more than {MAX_SUBGRAPH_DEPTH} levels deep."
            self.note(scope, declaration, "type", "limit-depth", message)
            return None
        if path not in self.documents:
            if not path.is_file():
                siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
                message = f"there is no document {declaration.type!r}; looked for {path}."
                self.note(scope, declaration, "type", "file-not-found", message, near_name(path.name, siblings))
                return None
            try:
                self.documents[path] = load_document(path, self.limits)
            except InvalidWorkflow as error:
                self.problems.extend(error.problems)
                return None
            self.problems.extend(self.documents[path].problems)
        return self.documents[path]

    def note(
        self,
        scope: _Scope,
        declaration: NodeDeclaration,
        name: str,
        code: str,
        message: str,
        near: str | None = None,
        on_key: bool = False,
    ) -> None:
        mark = (key_mark if on_key else value_mark)(declaration.tree, name) or declaration.place.mark
        place = scope.document.place(mark)
        words = (
            f"node {declaration.id!r} ({declaration.type}) {message}"
            if name != "select"
            else (f"node {declaration.id!r} ({declaration.type}): {message}")
        )
        self.problems.add(code, words, place, node=scope.prefix + declaration.id, input=name, near=near)


def _evaluate(
    raw: Any,
    scope: _Scope,
    problems: Problems,
    place: Place,
    words: str,
    node: str | None = None,
    input: str | None = None,
) -> Any:
    """Returns a raw value with its texts evaluated: Refs, parameter values, filled-in texts, literals."""

    def leaf(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            value = parse_value(text)
        except BadReference as error:
            problems.add("bad-link", f"{words}: {error}.", place, node=node, input=input)
            return MISSING
        if isinstance(value, Reference):
            return Ref(scope.prefix + value.node, value.port, str(value))
        if isinstance(value, ParamReference):
            return param(value.name)
        if isinstance(value, Template):
            filled = [param(name) for name in value.names]
            if any(isinstance(item, Missing) for item in filled):
                return MISSING
            texts = [item.name if isinstance(item, FileName) else item for item in filled]
            return "".join(
                piece + ("" if i == len(texts) else texts[i] if isinstance(texts[i], str) else shown(texts[i], 10_000))
                for i, piece in enumerate(value.pieces)
            )
        return value

    def param(name: str) -> Any:
        if name in scope.params:
            return scope.params[name]
        if name not in scope.document.params:
            known = names(scope.document.params)
            near = near_name(name, scope.document.params)
            message = f"{words}: there is no parameter {name!r}; known: {known}."
            problems.add("unknown-param", message, place, node=node, input=input, near=near)
        return MISSING

    return _map_leaves(raw, leaf)


def _map_leaves(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Returns a copy of lists and maps with every leaf mapped, without recursion."""
    root: list[Any] = [None]
    pending: list[tuple[Any, Any, Any]] = [(root, 0, tree)]
    while pending:
        into, key, value = pending.pop()
        if isinstance(value, list):
            into[key] = [None] * len(value)
            pending.extend((into[key], index, item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            into[key] = dict.fromkeys(value)
            pending.extend((into[key], name, item) for name, item in value.items())
        else:
            into[key] = leaf(value)
    return root[0]


def _param_value(param: Param, value: Any, base: Path | None) -> Any:
    return FileName(value, base) if param.file_kind and isinstance(value, str) else value


def _is_path(type_name: str) -> bool:
    return "/" in type_name or type_name.endswith((".yaml", ".yml", ".json"))


def _files(document: Document) -> tuple[Path, ...]:
    return (document.file.resolve(),) if document.file else ()

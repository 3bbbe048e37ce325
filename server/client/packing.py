"""Packing: a document made fit to travel. It brings along the documents that it uses, and names the local pictures in its nodes
by their content.

A name means here what it means to `latentgraph run`: first as seen from the document that holds it, then from the working
folder. A document that is not there is an error here, since no server has it; a picture that is not there is left as it is,
since the server may have one of that name. A document's text is kept, with its comments and lines, where it can be.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentgraph.graph import Document, InvalidWorkflow, Problem, bundle, parse_document
from latentgraph.graph.document import NodeDeclaration, is_document, part_path
from latentgraph.graph.problems import Mark, Place
from latentgraph.graph.references import BadReference, parse_value
from latentgraph.graph.source import value_mark

from ..files.resolving import UPLOAD_KINDS
from .attachments import LOCAL, Sent, find_picture

FileKinds = Mapping[str, Mapping[str, str | None]]
"""Which inputs of which node types take files, and of which kinds."""

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Named:
    """A local picture that a document names. part: which document, "" for the outermost. keys: where in its tree."""

    part: str
    keys: Keys
    picture: Path
    node_type: str = ""
    input: str = ""


def pack(sent: Sent, kinds: Callable[[], FileKinds], send: Callable[[Path], str], *, with_defaults: bool) -> Sent:
    """Returns what is sent in place of a document.

    kinds: asked if a node may name a picture. send: sends one and returns its content id. with_defaults: pictures that the
    outermost parameters have as defaults are sent, too. Raises InvalidWorkflow for a document that is not there.
    """
    document = bundle(sent.document, LOCAL)
    named = list(_pictures(document, with_defaults=with_defaults))
    if any(one.node_type for one in named):
        known = kinds()
        named = [
            one for one in named if not one.node_type or known.get(one.node_type, {}).get(one.input) in UPLOAD_KINDS
        ]
    if not named and document is sent.document:
        return sent
    ids = [(one, send(one.picture)) for one in named]
    tree = dict(document.tree)
    for one, id in ids:
        tree = _with(tree, ("parts", one.part, *one.keys) if one.part else one.keys, id)
    text = _edited(sent, document, tree, [(one.keys, id) for one, id in ids if not one.part])
    return Sent(document, tree if text is None else text, sent.file)


def placed(problem: Problem, sent: Sent) -> Problem:
    """Returns a finding of the server's with the place in the file that it is about, and what is not here either."""
    place = problem.place._replace(file=problem.place.file or (str(sent.file) if sent.file else None))
    if problem.node and ("/" in problem.node or place.mark is None):
        place = _place(sent.document, problem) or place
    if problem.code == "file-not-found" and any(f"there is no {kind} " in problem.message for kind in UPLOAD_KINDS):
        beside = [str(sent.file.parent)] if sent.file else []
        here = ", ".join(dict.fromkeys([*beside, str(Path.cwd())]))
        words = f"{problem.message.rstrip('.')}; nor is it on this machine, in {here}."
        return replace(problem, place=place, message=words)
    return replace(problem, place=place)


def _pictures(document: Document, *, with_defaults: bool) -> Iterator[_Named]:
    """Yields the local pictures that a document and its parts may name."""
    for part, one in (("", document), *document.parts.items()):
        base = one.file.resolve().parent if one.file else None
        if part or with_defaults:
            for name, param in one.params.items():
                picture = find_picture(param.default, base) if param.file_kind in UPLOAD_KINDS else None
                if picture is not None:
                    is_map = isinstance(one.tree["params"][name], dict)
                    yield _Named(part, ("params", name, *(("default",) if is_map else ())), picture)
        for declaration in one.nodes.values():
            for input, keys, value in _texts(declaration):
                picture = find_picture(_literal(value), base)
                if picture is None:
                    continue
                if not is_document(declaration.type):
                    yield _Named(part, keys, picture, declaration.type, input)
                elif _takes_picture(document, posixpath.dirname(part), declaration, input):
                    yield _Named(part, keys, picture)


def _takes_picture(document: Document, folder: str, declaration: NodeDeclaration, input: str) -> bool:
    used = document.parts.get(part_path(folder, declaration.type))
    param = used.params.get(input) if used is not None else None
    return param is not None and param.file_kind in UPLOAD_KINDS


def _texts(declaration: NodeDeclaration) -> Iterator[tuple[str, Keys, str]]:
    """Yields the texts of a node, those that a foreach goes over among them: for which input, where, and the text."""
    at: Keys = ("nodes", declaration.id)
    for name, value in declaration.inputs.items():
        if isinstance(value, str):
            yield name, (*at, name), value
    loop: Mapping[str, Any] = declaration.foreach or {}
    for mode in ("zip", "product"):
        if isinstance(loop.get(mode), dict):
            at, loop = (*at, "foreach", mode), loop[mode]
            break
    else:
        at = (*at, "foreach")
    for name, items in loop.items():
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, str):
                yield name, (*at, name, index), item


def _literal(text: str) -> str | None:
    """Returns what a text stands for, None if that is known to the run alone."""
    try:
        value = parse_value(text)
    except BadReference:
        return None
    return value if isinstance(value, str) else None


def _with(tree: Mapping[str, Any], keys: Keys, value: str) -> dict[str, Any]:
    """Returns a tree with another value at a place; nothing else of it is changed, or shared where it is."""
    copy: Any = dict(tree)
    at = copy
    for key in keys[:-1]:
        at[key] = list(at[key]) if isinstance(at[key], list) else dict(at[key])
        at = at[key]
    at[keys[-1]] = value
    return dict(copy)


def _edited(sent: Sent, document: Document, tree: Mapping[str, Any], edits: Sequence[tuple[Keys, str]]) -> str | None:
    """Returns the text of a document with new values in it, and its parts at its end; None where that can't be done."""
    if not isinstance(sent.body, str):
        return None
    lines = sent.body.split("\n")
    places = [(_mark(document.tree, keys), keys, id) for keys, id in edits]
    for mark, keys, id in sorted(places, reverse=True, key=lambda place: place[0] or Mark(0, 0)):
        if mark is None or mark.line > len(lines):
            return None
        line, old = lines[mark.line - 1], _at(document.tree, keys)
        head, rest = line[: mark.column - 1], line[mark.column - 1 :]
        written = next((form for form in (old, f'"{old}"', f"'{old}'") if rest.startswith(form)), None)
        if written is None:
            return None
        lines[mark.line - 1] = f'{head}"{id}"{rest[len(written) :]}'
    text = "\n".join(lines)
    if document is not sent.document:
        text = f"{text.rstrip()}\n\nparts: {json.dumps(tree['parts'], ensure_ascii=False)}\n"
    try:
        return text if parse_document(text).tree == tree else None
    except InvalidWorkflow:
        return None


def _at(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _mark(tree: Any, keys: Keys) -> Mark | None:
    return value_mark(_at(tree, keys[:-1]), keys[-1])


def _place(document: Document, problem: Problem) -> Place | None:
    """Returns where the node of a finding is written, in the document or in one that it brings along."""
    *uses, last = (problem.node or "").split("/")
    one, folder = document, ""
    for use in uses:
        if use not in one.nodes:
            return None
        path = part_path(folder, one.nodes[use].type)
        if path not in document.parts:
            return None
        one, folder = document.parts[path], posixpath.dirname(path)
    declaration = one.nodes.get(last)
    if declaration is None:
        return None
    mark = value_mark(declaration.tree, problem.input) if problem.input else None
    return Place(one.label, mark or declaration.place.mark)

"""Bundling: a document that brings along all those that it uses, so that it can go where its files can't."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .document import Document, NodeDeclaration, is_document, part_path
from .errors import FileNotUsable, InvalidWorkflow
from .files import DOCUMENT, FileResolver
from .reading import load_document
from .report import Problems
from .source import Limits

MAX_PARTS = 100
"""How many documents one may bring along when they are gathered from files."""


def bundle(document: Document, resolver: FileResolver, limits: Limits = Limits()) -> Document:  # noqa: B008 - frozen
    """Returns the document with those that it uses, and those that they use, among its parts.

    It has the same nodes, with the same ids. Each part knows the file that it came from. Raises InvalidWorkflow for documents
    that are not there, or can't be read.
    """
    gathered = _Gathering(document, resolver, limits)
    gathered.gather()
    gathered.problems.raise_errors()
    if gathered.parts == document.parts:
        return document
    trees: Mapping[str, Any] = {path: part.tree for path, part in gathered.parts.items()}
    return replace(document, parts=gathered.parts, tree={**document.tree, "parts": trees})


class _Gathering:
    """The documents that are found, one after another, by their paths as seen from the first."""

    def __init__(self, document: Document, resolver: FileResolver, limits: Limits) -> None:
        self.parts = dict(document.parts)
        self.problems = Problems()
        self._resolver, self._limits = resolver, limits
        self._waiting = deque([("", document)])
        self._waiting += [(posixpath.dirname(path), part) for path, part in document.parts.items()]

    def gather(self) -> None:
        while self._waiting:
            folder, document = self._waiting.popleft()
            for declaration in document.nodes.values():
                if is_document(declaration.type) and part_path(folder, declaration.type) not in self.parts:
                    self._add(part_path(folder, declaration.type), document, declaration)

    def _add(self, path: str, user: Document, declaration: NodeDeclaration) -> None:
        """Adds the document that a node names, with what it brings along itself."""
        if len(self.parts) >= MAX_PARTS:
            message = f"it uses more than {MAX_PARTS} documents."
            declaration.note(self.problems, "limit-nodes", message, id=declaration.id, input="type")
            self.problems.raise_errors()
        found = self._load(user, declaration)
        if found is None:
            return
        folder = posixpath.dirname(path)
        self._put(path, replace(found, parts={}, tree={key: v for key, v in found.tree.items() if key != "parts"}))
        for inner, part in found.parts.items():
            self._put(part_path(folder, inner), part)

    def _put(self, path: str, document: Document) -> None:
        if path not in self.parts:
            self.parts[path] = document
            self._waiting.append((posixpath.dirname(path), document))

    def _load(self, user: Document, declaration: NodeDeclaration) -> Document | None:
        """Returns the document that a node names, None with the reason noted."""
        base = user.file.resolve().parent if user.file else None
        try:
            found = self._resolver.resolve(DOCUMENT, declaration.type, base)
            document = load_document(_as_named(user, declaration, found), self._limits)
        except FileNotUsable as error:
            near = error.near[0] if error.near else None
            declaration.note(self.problems, "file-not-found", f"{error}.", id=declaration.id, input="type", near=near)
            return None
        except InvalidWorkflow as error:
            self.problems.extend(error.problems)
            return None
        self.problems.extend(document.problems)
        return document


def _as_named(user: Document, declaration: NodeDeclaration, found: Path) -> Path:
    """Returns the path of a document as messages name it: by way of the document that uses it, if that leads there."""
    beside = user.file.parent if user.file else Path()
    named = Path(posixpath.normpath(beside / declaration.type))
    return named if named.resolve() == found else found

"""The documents that nodes are: parts of the document itself, or files, each read once."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from .document import Document, NodeDeclaration, part_path
from .errors import FileNotUsable, InvalidWorkflow
from .evaluate import Origin, Scope
from .files import DOCUMENT, FileResolver
from .reading import load_document
from .report import Problems
from .source import Limits

MAX_SUBGRAPH_DEPTH = 8
"""How deep documents may use documents."""


class UsedDocument(NamedTuple):
    """A document that a node's type names, and where its own parts are; see Scope."""

    document: Document
    origin: Origin
    library: Document
    folder: str


class UsedDocuments:
    """Finds the documents that nodes' types name. What is wrong with one is noted once, there or where it is used."""

    def __init__(self, resolver: FileResolver, limits: Limits, problems: Problems) -> None:
        self._resolver, self._limits, self._problems = resolver, limits, problems
        self._documents: dict[Path, Document | None] = {}

    def document_of(self, scope: Scope, declaration: NodeDeclaration) -> UsedDocument | None:
        """Returns the document that a node's type names, or None with the reason noted."""
        path = part_path(scope.folder, declaration.type)
        if (part := scope.library.parts.get(path)) is not None:
            origin = Origin((id(scope.library), path), posixpath.basename(path))
            used = UsedDocument(part, origin, scope.library, posixpath.dirname(path))
            return used if self._may_enter(scope, declaration, origin) else None
        try:
            found = self._resolver.resolve(DOCUMENT, declaration.type, scope.base)
        except FileNotUsable as error:
            near = error.near[0] if error.near else None
            self._note(scope, declaration, "file-not-found", f"{error}.", near)
            return None
        origin = Origin(found, found.name)
        document = self._file(scope, declaration, found) if self._may_enter(scope, declaration, origin) else None
        return UsedDocument(document, origin, document, "") if document is not None else None

    def _may_enter(self, scope: Scope, declaration: NodeDeclaration, origin: Origin) -> bool:
        """Returns whether a document may be used there: not by itself, and not too deep; else the reason is noted."""
        if any(origin.key == one.key for one in scope.chain):
            chain = " -> ".join(one.name for one in (*scope.chain, origin))
            self._note(scope, declaration, "cycle", f"the document uses itself: {chain}.")
            return False
        if len(scope.chain) > MAX_SUBGRAPH_DEPTH:
            message = f"documents use documents more than {MAX_SUBGRAPH_DEPTH} levels deep."
            self._note(scope, declaration, "limit-depth", message)
            return False
        return True

    def _file(self, scope: Scope, declaration: NodeDeclaration, path: Path) -> Document | None:
        """Returns the document in a file, read once, or None with the reason noted."""
        if path not in self._documents:
            beside = scope.document.file.parent if scope.document.file else Path()
            as_named = Path(os.path.normpath(beside / declaration.type))  # for messages
            self._documents[path] = self._load(as_named if as_named.resolve() == path else path)
        return self._documents[path]

    def _load(self, path: Path) -> Document | None:
        """Returns the document in a file, or None if it can't be read; its problems are noted."""
        try:
            document = load_document(path, self._limits)
        except InvalidWorkflow as error:
            self._problems.extend(error.problems)
            return None
        self._problems.extend(document.problems)
        return document

    def _note(
        self, scope: Scope, declaration: NodeDeclaration, code: str, message: str, near: str | None = None
    ) -> None:
        id = scope.prefix + declaration.id
        declaration.note(self._problems, code, message, id=id, input="type", near=near)

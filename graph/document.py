"""A document: what a workflow file says, before anyone asks whether it makes sense.

A document may bring along those that it uses, under `parts`: by the paths that it names them by, as seen from where it lies.
So one text can hold what else is a folder of files, and go wherever no file can.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import InvalidWorkflow
from .params import Param
from .problems import Place, Problem
from .report import Problems
from .source import key_mark, value_mark

VERSION = 1
"""The version of the language that this package reads; a document states it as `latentgraph: 1`."""

NODE_KEYS = ("type", "foreach")
"""Keys of a node that are not inputs."""

_COPY = re.compile(r"\[[0-9]+\]")


@dataclass(frozen=True, slots=True)
class NodeDeclaration:
    """One node as written: its type, its raw inputs, and the tree that knows where they stand."""

    id: str
    type: str
    inputs: Mapping[str, Any]
    foreach: Mapping[str, Any] | None
    tree: Mapping[str, Any]
    place: Place

    def note(
        self,
        problems: Problems,
        code: str,
        message: str,
        *,
        id: str,
        input: str | None = None,
        near: str | None = None,
        on_key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Notes a problem of the node, at an input if one is named; copies that a foreach made of it are one in this."""
        mark = (key_mark if on_key else value_mark)(self.tree, input) if input else None
        if mark is None and input and self.foreach is not None:
            mark = value_mark(self.tree, "foreach")
        place = Place(self.place.file, mark or self.place.mark)
        node = _COPY.sub("", id)
        words = f"node {node!r} ({self.type[:80]}): {message}"
        problems.add(code, words, place, node=node, input=input, near=near, severity=severity)


@dataclass(frozen=True, slots=True)
class Document:
    """A workflow as written. `problems` holds what reading found wrong; a document with errors can't be built.

    file: where it lies, or, for one that another brings along, would lie. parts: the documents that it brings along, by their
    paths as seen from it, as `part_path` gives them. label: what messages call the file that its text is in.
    """

    file: Path | None
    name: str
    description: str
    params: Mapping[str, Param]
    nodes: Mapping[str, NodeDeclaration]
    outputs: Mapping[str, Any]
    tree: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    parts: Mapping[str, Document] = field(default_factory=dict)
    label: str | None = None

    def place(self, mark: Any) -> Place:
        """Returns a place in this document."""
        return Place(self.label, mark)

    def raise_errors(self) -> None:
        """Raises InvalidWorkflow with everything that reading found wrong if any of it is an error."""
        if any(problem.severity == "error" for problem in self.problems):
            raise InvalidWorkflow(self.problems)


def is_document(type_name: str) -> bool:
    """Returns whether the type of a node names another document."""
    return "/" in type_name or type_name.endswith((".yaml", ".yml", ".json"))


def part_path(folder: str, type_name: str) -> str:
    """Returns the path by which a document is known among the parts: as a node's type names it, in a part in `folder`."""
    return posixpath.normpath(posixpath.join(folder, type_name))

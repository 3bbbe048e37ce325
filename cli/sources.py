"""Where a workflow comes from: a file, a picture that carries one, or a tree made in a program. Nothing is checked here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentgraph.graph import Document, InvalidWorkflow, Problem, document_from_tree, load_document
from latentgraph.graph.problems import Place
from latentgraph.graph.reading import names_beside
from latentgraph.graph.wording import near_name

from .folders import bundled_workflows
from .provenance import Provenance, read_provenance


@dataclass(frozen=True)
class Source:
    """A document as it was read. made_as: how the picture was made that it came from, or None."""

    document: Document
    made_as: Provenance | None = None


def read_source(workflow: Path | str | Mapping[str, Any]) -> Source:
    """Returns the document of a file, of a picture that latentgraph saved, or in a mapping.

    A bare name that no file has is that of a workflow of the package. Raises InvalidWorkflow for a document that can't be read
    at all, LatentGraphError for a picture that carries none.
    """
    if isinstance(workflow, Mapping):
        return Source(document_from_tree(dict(workflow)))
    path = _found(Path(workflow))
    if path.suffix.lower() != ".png":
        return Source(load_document(path))
    made_as = read_provenance(path)
    return Source(document_from_tree(made_as.tree_with_values(), file=_base_file(made_as, path)), made_as)


def _found(path: Path) -> Path:
    """Returns the file that a path names: itself, or, if it is a bare name that no file has, a workflow of the package.

    Raises InvalidWorkflow for a name that means neither.
    """
    if path.suffix or path.name != str(path) or path.exists():
        return path
    bundled = bundled_workflows()
    if path.name not in bundled:
        message = "there is no such file, and no such workflow of the package; `latentgraph workflows` lists those."
        near = near_name(path.name, [*bundled, *names_beside(path)])
        raise InvalidWorkflow([Problem("file-not-found", message, Place(path.name), near=near)])
    return bundled[path.name]


def _base_file(made_as: Provenance, picture: Path) -> Path:
    """Returns the file that names in a picture's document are relative to: the document's own, or the picture."""
    if made_as.file is None:
        return picture
    folders = list(picture.absolute().parents)  # pictures are saved into the output folder, or into folders below it
    candidates = [Path(os.path.normpath(folder / made_as.file)) for folder in folders]
    there = [file for file in candidates if file.is_file()] or [file for file in candidates if file.parent.is_dir()]
    return there[0] if there else picture

"""What a saved picture says of its making, and how it is read back: a PNG text chunk that holds JSON.

The document with its parameter values, the precision, the versions of what computed it, and the SHA-256 of every file that
it read: enough to make the same pixels again on the same kind of machine, and to say why not elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latentgraph.graph import Document, FileNotUsable, Fingerprints, Graph, LatentGraphError, flat_document

KEYWORD = "latentgraph"
"""The keyword of the PNG text chunk."""

_PACKAGES = ("latentgraph", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Provenance:
    """How a picture was made.

    document: the tree of the workflow. params: the values of its parameters. file: the document's file as it was named, for
    finding what it names. environment: see `Engine.environment`. files: SHA-256 by "node.input". versions: by package.
    """

    document: Mapping[str, Any]
    params: Mapping[str, Any]
    file: str | None
    precision: str
    environment: str
    files: Mapping[str, str]
    versions: Mapping[str, str]

    def as_text(self) -> str:
        """Returns the provenance as JSON."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, ensure_ascii=False)

    def check_files(self, graph: Graph, fingerprints: Fingerprints) -> None:
        """Raises FileNotUsable if a file of the graph is not the one that the picture was made with."""
        for name, path in named_files(graph).items():
            made_with = self.files.get(name)
            if made_with is not None and fingerprints.of(path) != made_with:
                raise FileNotUsable(
                    f"the file of {name} ({path}) is not the one that the picture was made with: its SHA-256 is "
                    f"{fingerprints.of(path)[:12]}..., expected {made_with[:12]}..."
                )

    def differing_versions(self) -> list[str]:
        """Returns a sentence for each package whose version differs from the one that made the picture."""
        now = versions()
        return [
            f"{name} is {now.get(name, 'absent')} here, and was {version} when the picture was made"
            for name, version in self.versions.items()
            if now.get(name) != version
        ]


def describe_making(
    document: Document, graph: Graph, *, precision: str, environment: str, fingerprints: Fingerprints
) -> Provenance:
    """Returns the provenance of what a graph makes. A document that uses other documents is written out flat."""
    uses_documents = any("/" in node.type or "." in node.type for node in document.nodes.values())
    return Provenance(
        flat_document(graph) if uses_documents else dict(document.tree),
        {} if uses_documents else dict(graph.params),
        str(document.file) if document.file else None,
        precision,
        environment,
        {name: fingerprints.of(path) for name, path in named_files(graph).items()},
        versions(),
    )


def read_provenance(path: Path) -> Provenance:
    """Returns the provenance of a PNG that latentgraph saved. Raises LatentGraphError if it carries none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            text = getattr(picture, "text", {}).get(KEYWORD)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise LatentGraphError(f"{path}: can't read the picture: {error}") from None
    if text is None:
        raise LatentGraphError(f"{path}: the picture carries no latentgraph document; it was saved by something else")
    try:
        return Provenance(**json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise LatentGraphError(f"{path}: the document in the picture can't be read: {error}") from None


def named_files(graph: Graph) -> dict[str, Path]:
    """Returns the files of a graph by "node.input"."""
    return {f"{id}.{name}": path for id, node in graph.nodes.items() for name, path in node.files.items()}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that make the pixels."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

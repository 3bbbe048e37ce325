"""`--set name=value` on the command line to values of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentgraph.graph import Document, LatentGraphError, document_from_tree, load_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import Engine


def read_settings(engine: Engine, file: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Returns the given values, each read as its parameter's type wants it; an unknown name is left for validation."""
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise LatentGraphError(f"--set {setting!r} is no NAME=VALUE; write for example --set seed=7")
        given[name.strip()] = value
    if not given:
        return {}
    params = _document(file).params
    return {name: params[name].from_text(value) if name in params else value for name, value in given.items()}


def _document(file: Path) -> Document:
    if file.suffix.lower() == ".png":
        from .provenance import read_provenance

        return document_from_tree(dict(read_provenance(file).document))
    return load_document(file)

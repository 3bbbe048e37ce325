"""What a saved picture says of its making, and how it is read back: a PNG text chunk that holds JSON.

The document with its parameter values, the precision, the versions of what computed it, and the SHA-256 of every file that
it read: enough to make the same pixels again on the same kind of machine, and to say why not elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

from latentgraph.diffusion.names import Precision
from latentgraph.graph import (
    Document,
    FileNotUsable,
    FileResolver,
    Fingerprints,
    Graph,
    GraphNode,
    LatentGraphError,
    Plan,
    flat_document,
)
from latentgraph.graph.reading import names_beside
from latentgraph.graph.wording import near_name

KEYWORD = "latentgraph"
"""The keyword of the PNG text chunk."""

_PACKAGES = ("latentgraph", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Provenance:
    """How a picture was made.

    document: the tree of the workflow. params: the values of its parameters. file: the document's file, relative to the output
    folder, for finding what it names. environment: see `Engine.environment`. files: SHA-256 by "node.input". versions: by
    package.
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

    def tree_with_values(self) -> dict[str, Any]:
        """Returns the document with the values that the picture was made with in place of its parameters' defaults.

        As defaults they mean what they meant then: names of files are relative to the document.
        """
        declared = self.document.get("params")
        if not isinstance(declared, dict):
            return dict(self.document)
        values = {
            name: {**param, "default": self.params[name]} if isinstance(param, dict) else self.params[name]
            for name, param in declared.items()
            if name in self.params
        }
        return {**self.document, "params": {**declared, **values}}

    def check_files(self, graph: Graph, fingerprints: Fingerprints) -> None:
        """Raises FileNotUsable if a file of the graph is not the one that the picture was made with."""
        for name, path in named_files(graph).items():
            made_with = self.files.get(name)
            if made_with is not None and fingerprints.of(path) != made_with:
                raise FileNotUsable(
                    f"the file of {name} ({path}) is not the one that the picture was made with: its SHA-256 is "
                    f"{fingerprints.of(path)[:12]}..., expected {made_with[:12]}...; put that file back"
                )

    def differences(self, *, precision: str) -> list[str]:
        """Returns a sentence for each thing that differs from when the picture was made, and may change its pixels."""
        now = versions()
        other = f"the precision is {precision} here, and was {self.precision} when the picture was made"
        return ([other] if precision != self.precision else []) + [
            f"{name} is {now.get(name, 'absent')} here, and was {version} when the picture was made"
            for name, version in self.versions.items()
            if now.get(name) != version
        ]


def describe_making(
    document: Document,
    plan: Plan,
    *,
    precision: str,
    environment: str,
    resolver: FileResolver,
    output_dir: Path,
) -> Provenance:
    """Returns the provenance of what a plan makes. A document that uses other documents is written out flat.

    Files are named so that the document's folder is enough to find them, wherever they were named from.
    """
    graph = plan.graph
    base = document.file.resolve().parent if document.file else Path.cwd()
    names = {id: _file_names(node, base, resolver) for id, node in graph.nodes.items()}
    if any("/" in node.type or "." in node.type for node in document.nodes.values()):
        tree, params = flat_document(graph), {}
        for renamed, written in zip(names.values(), tree["nodes"].values(), strict=True):
            written.update({input: name.replace("$", "$$") for input, name in renamed.items()})
    else:
        used = {graph.nodes[id].file_names[input]: name for id, files in names.items() for input, name in files.items()}
        tree, params = dict(document.tree), dict(graph.params)
        params |= {name: used.get(params[name], params[name]) for name in params if document.params[name].file_kind}
    return Provenance(
        tree,
        params,
        _relative(document.file.resolve(), output_dir.resolve()) if document.file else None,
        precision,
        environment,
        {name: plan.keys.files[path].fingerprint for name, path in named_files(graph).items()},
        versions(),
    )


def _file_names(node: GraphNode, base: Path, resolver: FileResolver) -> dict[str, str]:
    """Returns names for the files of a node, by input: as used where `base` is enough to find them so, else relative to it."""
    names: dict[str, str] = {}
    for input, path in node.files.items():
        file, used = node.cls.spec.inputs[input].file, node.file_names[input]
        here = _is_below(Path.cwd(), used, path) and not _is_below(base, used, path)
        elsewhere = file is not None and _find(resolver, file.kind, used, base) != path
        names[input] = _relative(path, base) if here or elsewhere else used
    return names


def _is_below(folder: Path, name: str, path: Path) -> bool:
    """Returns whether a name stands for a path as seen from a folder; its suffix may be left out."""
    return path in ((folder / name).resolve(), (folder / (name + path.suffix)).resolve())


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _find(resolver: FileResolver, kind: str, name: str, base: Path) -> Path | None:
    try:
        return resolver.resolve(kind, name, base)
    except FileNotUsable:
        return None


def read_provenance(path: Path) -> Provenance:
    """Returns the provenance of a PNG that latentgraph saved. Raises LatentGraphError if it carries none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as picture:  # no pixel is decoded
            text = picture.info.get(KEYWORD)
    except FileNotFoundError:
        raise LatentGraphError(_missing(path)) from None
    except UnidentifiedImageError:
        raise LatentGraphError(
            f"{path}: this is no PNG picture; give a workflow, or a picture that was saved"
        ) from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise LatentGraphError(f"{path}: the picture can't be read: {error}") from None
    if not isinstance(text, str):
        raise LatentGraphError(f"{path}: the picture carries no latentgraph document; it was saved by something else")
    try:
        return _provenance(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise LatentGraphError(f"{path}: the document in the picture can't be read: {error}") from None


def _provenance(tree: Any) -> Provenance:
    """Returns the provenance in a tree. Raises TypeError or ValueError if it was written by something else."""
    made_as = Provenance(**tree)
    maps = (made_as.document, made_as.params, made_as.files, made_as.versions)
    if not all(isinstance(part, dict) for part in maps) or not isinstance(made_as.file, str | None):
        raise ValueError("its parts have the wrong types")
    if made_as.precision not in get_args(Precision):
        raise ValueError(f"there is no precision {made_as.precision!r}")
    return made_as


def _missing(path: Path) -> str:
    near = near_name(path.name, names_beside(path))
    return f"{path}: there is no such file." + (f" Did you mean {near!r}?" if near else "")


def named_files(graph: Graph) -> dict[str, Path]:
    """Returns the files of a graph by "node.input"; one that a text names by "node.text NAME"."""
    return {f"{id}.{name}": path for id, node in graph.nodes.items() for name, path in node.reads.items()}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that make the pixels."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _version(package: str) -> str | None:
    """Returns the version of a package, None if it is not installed. Each is looked up once, which takes milliseconds."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

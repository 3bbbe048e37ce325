"""Which model files fit the parameters of a document: those with which a check finds nothing more wrong than without any.

A check reads headers alone, so a file of another family is known in milliseconds. Knows no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentgraph.graph import Document, InvalidWorkflow, Limits, Param, Problem, Registry, build_graph

from ..files.resolving import UPLOAD_KINDS, ServerResolver

MAX_TRIED = 500
"""How many files are tried for a parameter; the others are not offered."""

_NO_FILE = "?"  # a name that no file has


@dataclass(frozen=True, slots=True)
class Fitting:
    """The files that a parameter may name, out of how many there are of their kind, and where more of them belong, in words."""

    kind: str
    names: tuple[str, ...]
    there: int
    where: str


def fitting_files(
    document: Document, params: Mapping[str, Any], registry: Registry, resolver: ServerResolver, limits: Limits
) -> dict[str, Fitting]:
    """Returns for each parameter that takes a model file those that fit, with `params` for the other parameters.

    Raises InvalidWorkflow for a document that could not be read without errors.
    """
    if any(problem.severity == "error" for problem in document.problems):
        raise InvalidWorkflow(document.problems)

    def errors(name: str, file: str) -> frozenset[Problem]:
        try:
            build_graph(document, registry, params={**params, name: file}, resolver=resolver, limits=limits)
        except InvalidWorkflow as error:
            return frozenset(problem for problem in error.problems if problem.severity == "error")
        return frozenset()

    def fitting(param: Param, kind: str) -> Fitting:
        names = resolver.names(kind)
        known = errors(param.name, _NO_FILE) if names else frozenset()
        fit = (file for file in names[:MAX_TRIED] if errors(param.name, file) <= known)
        return Fitting(kind, tuple(fit), len(names), resolver.where(kind))

    kinds = {name: param.file_kind for name, param in document.params.items()}
    return {
        name: fitting(document.params[name], kind) for name, kind in kinds.items() if kind and kind not in UPLOAD_KINDS
    }

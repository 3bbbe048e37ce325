"""Which model files fit the parameters of a document: those with which a check finds nothing more wrong than without any.

A check reads headers alone, so a file of another family is known in milliseconds. Knows no request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from latentgraph.graph import Document, FileResolver, InvalidWorkflow, Limits, Param, Problem, Registry, build_graph

from ..files.resolving import UPLOAD_KINDS

MAX_TRIED = 500
"""How many files are tried for a parameter; the others are not offered."""

_NO_FILE = "?"  # a name that no file has


@dataclass(frozen=True, slots=True)
class Fitting:
    """The files that a parameter may name, those of their kind that do not fit, each with what is wrong with it, and where more
    files belong, in words."""

    kind: str
    names: tuple[str, ...]
    unfit: Mapping[str, Problem]
    where: str


class Offering(FileResolver, Protocol):
    """A resolver that knows which files there are."""

    def names(self, kind: str) -> Sequence[str]:
        """Returns the names of a kind that documents may use."""
        ...


def fitting_files(
    document: Document, params: Mapping[str, Any], registry: Registry, resolver: Offering, limits: Limits
) -> dict[str, Fitting]:
    """Returns for each parameter that takes a model file those that fit, with `params` for the other parameters.

    Raises InvalidWorkflow for a document that could not be read without errors.
    """
    document.raise_errors()

    def errors(name: str, file: str) -> Sequence[Problem]:
        try:
            build_graph(document, registry, params={**params, name: file}, resolver=resolver, limits=limits)
        except InvalidWorkflow as error:
            return [problem for problem in error.problems if problem.severity == "error"]
        return ()

    def fitting(param: Param, kind: str) -> Fitting:
        names = resolver.names(kind)[:MAX_TRIED]
        known = set(errors(param.name, _NO_FILE)) if names else set()
        more = {file: [problem for problem in errors(param.name, file) if problem not in known] for file in names}
        fit = tuple(file for file, problems in more.items() if not problems)
        unfit = {file: problems[0] for file, problems in more.items() if problems}
        return Fitting(kind, fit, unfit, resolver.where(kind))

    kinds = {name: param.file_kind for name, param in document.params.items()}
    return {
        name: fitting(document.params[name], kind) for name, kind in kinds.items() if kind and kind not in UPLOAD_KINDS
    }

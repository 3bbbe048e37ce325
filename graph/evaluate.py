"""Evaluation: the texts of a document become references, parameter values, filled-in texts and literals.

Nothing is looked up but parameters; what a reference stands for is `resolve`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .document import Document
from .params import Param
from .problems import Place, Problem
from .references import BadReference, ParamReference, Reference, Template, parse_value
from .report import Problems
from .source import Limits
from .wording import names, shown

_CHARACTERS = 64  # what counts as one value among filled-in texts


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to a full node id, with the words the document used for it."""

    node: str
    port: str | None
    words: str

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class FileName:
    """The value of a file parameter, with the folder that it is relative to."""

    name: str
    base: Path | None

    def __str__(self) -> str:
        return self.name


class Missing(NamedTuple):
    """Stands for a value that could not be made; the reason is noted already."""


MISSING = Missing()


class Budget:
    """How many values a document may still become. A loop in a loop in a loop is refused, not tried."""

    def __init__(self, limits: Limits, problems: Problems, place: Place) -> None:
        self._limit = self._left = limits.expanded
        self._problems, self._place = problems, place

    def spend(self, values: int = 1) -> None:
        """Counts values made. Raises InvalidWorkflow once they are too many."""
        self._left -= values
        if self._left < 0:
            message = f"the document expands to more than {self._limit:,} values."
            self._problems.extend([Problem("limit-expanded", message, self._place)])
            self._problems.raise_errors()


class Origin(NamedTuple):
    """What tells one document from another, so that none uses itself. key: its path; for a part, with whose part it is."""

    key: object
    name: str


@dataclass(frozen=True, slots=True)
class Scope:
    """One document in use: the prefix of its ids, the values of its parameters, and the documents that led to it, itself last.

    library: the document whose parts those are that it uses. folder: where it lies, as seen from the library.
    """

    document: Document
    prefix: str
    params: dict[str, Any]
    chain: tuple[Origin, ...]
    library: Document
    folder: str = ""
    top: str | None = None

    @property
    def base(self) -> Path | None:
        """The folder that the document's file names are relative to."""
        return self.document.file.resolve().parent if self.document.file else None

    def declares(self, id: str) -> bool:
        """Returns whether the document has a node of a full id, or may have it among what could not be read."""
        declared = self.document.tree.get("nodes", {})
        return not isinstance(declared, dict) or id.removeprefix(self.prefix) in declared


Note = Callable[..., None]
"""Notes a problem with a value: note(code, message, near=None)."""


def evaluate(raw: Any, scope: Scope, budget: Budget, problems: Problems, note: Note) -> Any:
    """Returns a raw value with its texts evaluated, or MISSING if any part of it could not be (noted)."""
    missing = False

    def leaf(text: Any) -> Any:
        nonlocal missing
        budget.spend()
        if not isinstance(text, str):
            return text
        value: Any = MISSING
        try:
            value = parse_value(text)
        except BadReference as error:
            note("bad-link", f"{error}.")
        if isinstance(value, Reference):
            return Ref(scope.prefix + value.node, value.port, str(value))
        if isinstance(value, ParamReference):
            value = param(value.name)
        elif isinstance(value, Template):
            value = _filled(value, [param(name) for name in value.names], budget)
        missing = missing or value is MISSING
        return value

    def param(name: str) -> Any:
        declared = scope.document.tree.get("params")
        if name not in scope.params and not (isinstance(declared, dict) and name in declared):
            known = scope.document.params
            message = f"there is no parameter {name!r}; known: {names(known)}."
            note("unknown-param", message, problems.near(name, known))
        return scope.params.get(name, MISSING)

    value = _map_leaves(raw, leaf) if isinstance(raw, list | dict) else leaf(raw)
    return MISSING if missing else value


def param_value(param: Param, value: Any, base: Path | None) -> Any:
    """Returns a parameter's value as its document sees it: a file name with the folder that it is relative to."""
    return FileName(value, base) if param.file_kind and isinstance(value, str) else value


def refs_in(value: Any) -> Iterator[Ref]:
    """Yields the references in an evaluated value, in lists and maps too, in the order in which they are written."""
    pending = [value]
    while pending:
        match pending.pop():
            case Ref() as ref:
                yield ref
            case list() as items:
                pending.extend(reversed(items))
            case dict() as entries:
                pending.extend(reversed(entries.values()))


def _filled(template: Template, values: list[Any], budget: Budget) -> Any:
    """Returns a template with its parameters' values in place, or MISSING if one of them is."""
    if MISSING in values:
        return MISSING
    written = {str: str, FileName: str}
    texts = [written.get(type(value), lambda value: shown(value, 10_000))(value) for value in values]
    budget.spend((sum(map(len, texts)) + sum(map(len, template.pieces))) // _CHARACTERS)
    first, *rest = template.pieces
    return first + "".join(text + piece for text, piece in zip(texts, rest, strict=True))


def _map_leaves(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Returns a copy of lists and maps with every leaf mapped, without recursion."""
    root: list[Any] = [None]
    pending: list[tuple[Any, Any, Any]] = [(root, 0, tree)]
    while pending:
        into, key, value = pending.pop()
        if isinstance(value, list):
            into[key] = [None] * len(value)
            pending.extend((into[key], index, item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            into[key] = dict.fromkeys(value)
            pending.extend((into[key], name, item) for name, item in value.items())
        else:
            into[key] = leaf(value)
    return root[0]

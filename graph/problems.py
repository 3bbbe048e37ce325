"""Problems of a document: what is wrong, where, what was expected, and what may have been meant.

A check never stops at its first finding: it reports into a `Problems` list and goes on, so that a person sees
everything that is wrong in one reading.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from .errors import InvalidWorkflow

MAX_PROBLEMS = 1_000
"""How many problems of one document are told."""

_MAX_COMPARISONS = 100_000


class Mark(NamedTuple):
    """A place in a text: line and column, both counted from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Where a problem is: the file (None for a document made in memory) and the mark (None where it is unknown)."""

    file: str | None = None
    mark: Mark | None = None

    def __str__(self) -> str:
        name = self.file or "<document>"
        return f"{name}:{self.mark.line}:{self.mark.column}" if self.mark else name


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `code` is stable for programs; `message` says what was found and what was expected.

    node, input: where in the graph. near: the name that may have been meant. param: the document's parameter that it is about.
    """

    code: str
    message: str
    place: Place = Place()
    node: str | None = None
    input: str | None = None
    near: str | None = None
    severity: Literal["error", "warning"] = "error"
    param: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean {self.near!r}?" if self.near else ""
        return f"{self.place}: {self.severity}: {self.message}{hint} [{self.code}]"

    def as_json(self) -> dict[str, Any]:
        """Returns the problem as a JSON object: code, severity, message, file, line, column, node, input, near, param."""
        mark = self.place.mark
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": self.place.file,
            "line": mark.line if mark else None,
            "column": mark.column if mark else None,
            "node": self.node,
            "input": self.input,
            "near": self.near,
            "param": self.param,
        }


class Problems:
    """The problems found so far, each once. One value is passed through all checks of a document.

    A document with more than MAX_PROBLEMS is not read on, and near names are looked for as long as they cost little, so that
    a broken document of any size is refused in a moment.
    """

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._errors = 0
        self._comparisons = 0

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def errors(self) -> int:
        """How many of the problems are errors."""
        return self._errors

    def add(
        self,
        code: str,
        message: str,
        place: Place,
        *,
        node: str | None = None,
        input: str | None = None,
        near: str | None = None,
        severity: Literal["error", "warning"] = "error",
        param: str | None = None,
    ) -> None:
        """Notes one problem. Raises InvalidWorkflow with what was found if it is one too many."""
        self.extend([Problem(code, message, place, node, input, near, severity, param)])

    def extend(self, problems: Iterable[Problem]) -> None:
        """Notes problems found elsewhere. Raises InvalidWorkflow with what was found if there are too many."""
        for problem in problems:
            if problem in self._found:
                continue
            self._found[problem] = None
            self._errors += problem.severity == "error"
            if len(self._found) > MAX_PROBLEMS:
                message = f"there are more than {MAX_PROBLEMS:,} problems; the rest was not looked for."
                raise InvalidWorkflow([*self.sorted()[:MAX_PROBLEMS], Problem("limit-problems", message)])

    def near(self, name: str, known: Collection[str]) -> str | None:
        """Returns the known name that looks most like `name`, or None; None, too, once many names were compared."""
        self._comparisons += len(known)
        return near_name(name, known) if self._comparisons <= _MAX_COMPARISONS else None

    def sorted(self) -> tuple[Problem, ...]:
        """Returns the problems in reading order: by file and place, those without a place last."""
        last = Mark(1 << 60, 0)
        return tuple(sorted(self._found, key=lambda p: (p.place.file or "", p.place.mark or last)))

    def raise_errors(self) -> None:
        """Raises InvalidWorkflow with everything found if any of it is an error."""
        if self.errors:
            raise InvalidWorkflow(self.sorted())


def near_name(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that looks most like `name`, or None; letter case counts little."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower()[:200], by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def names(known: Iterable[str], limit: int = 12) -> str:
    """Returns names for a message: sorted, comma-separated, cut after `limit`."""
    all_names = sorted(known)
    shown = ", ".join(all_names[:limit])
    return f"{shown}, and {len(all_names) - limit} more" if len(all_names) > limit else shown or "none"


def shown(value: object, limit: int = 60) -> str:
    """Returns a value as a document would write it, cut to `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."

"""Problems: the list that all checks of a document report into.

A check never stops at its first finding: it notes it and goes on, so that a person sees everything that is wrong in one
reading.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from .errors import InvalidWorkflow
from .problems import Mark, Place, Problem
from .wording import near_name

MAX_PROBLEMS = 1_000
"""How many problems of one document are told."""

_MAX_COMPARISONS = 100_000


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

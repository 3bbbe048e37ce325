"""Switch: one of several values, where only the chosen one is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .context import Context
from .errors import LatentGraphError
from .node import Node
from .wording import names

DEFAULT = "default"
"""The case that is taken when no other is called like the selection."""


def case_of(select: object, cases: Mapping[str, Any]) -> str | None:
    """Returns the name of the case that a selection takes, or None; true and false are the names of booleans."""
    name = str(select).lower() if isinstance(select, bool) else str(select)
    return name if name in cases else DEFAULT if DEFAULT in cases else None


class Switch(Node, version=1, cached=False):
    """Pass on one of several values, chosen by name; the others are not computed.

    `cases` maps names to links; the case `default`, if there is one, is taken when no other fits. A selection that is
    known before the run (a literal or a parameter) is settled while the graph is built.
    """

    select: str | int | bool
    cases: dict[str, Any]

    @classmethod
    def wanted(cls, given: Mapping[str, Any]) -> Mapping[str, Iterable[str]]:
        """Returns the one case that the selection takes."""
        case = case_of(given["select"], given["cases"])
        return {"cases": () if case is None else (case,)}

    def run(self, ctx: Context) -> Any:
        """Returns the value of the chosen case."""
        case = case_of(self.select, self.cases)
        if case is None:
            raise LatentGraphError(f"'select' is {self.select!r}; expected one of {names(self.cases)}")
        return self.cases[case]

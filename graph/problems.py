"""A problem of a document: what is wrong, where, what was expected, and what may have been meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


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

"""Every exception of the engine, one sentence each. A cache fault is none of them: it is a miss and a log line."""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Problem


class LatentGraphError(Exception):
    """Something that latentgraph refuses to do, said so that a person can mend it."""


class NodeDefinitionError(LatentGraphError):
    """A node class is declared wrongly; the class statement itself fails."""


class InvalidWorkflow(LatentGraphError):
    """A document has at least one error; `problems` holds all of them, warnings included, in reading order.

    As text it shows the first hundred and says how many more there are.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:100]]
        more = len(self.problems) - len(lines)
        super().__init__("\n".join([*lines, f"... and {more} more"] if more else lines))


class FileNotUsable(LatentGraphError):
    """A file named by a document is missing or outside what may be read; `near` holds names that look like it."""

    def __init__(self, message: str, near: Sequence[str] = ()) -> None:
        self.near = tuple(near)
        super().__init__(message)


class UnknownTarget(LatentGraphError):
    """A run was asked for a node or output that the graph does not have."""


class NodeFailed(LatentGraphError):
    """A node's run raised; the cause is the node's own error. place: of the node in its file, if it is in one."""

    def __init__(self, node: str, node_type: str, cause: BaseException, place: str | None = None) -> None:
        self.node, self.node_type, self.cause, self.place = node, node_type, cause, place
        message = f"node {node!r} ({node_type}) failed: {type(cause).__name__}: {cause}"
        super().__init__(f"{place}: {message}" if place else message)


class RunCancelled(LatentGraphError):
    """The run was cancelled before it was done."""

"""Resolution: which nodes a reference stands for once subgraphs, loops and settled Switches are expanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .document import NodeDeclaration
from .evaluate import Budget, Missing, Ref, Scope
from .report import Problems
from .wording import names, shown


@dataclass(slots=True)
class FlatNode:
    """A node with its inputs evaluated to literals, Refs, FileNames, and lists and maps of them."""

    id: str
    declaration: NodeDeclaration
    base: Path | None
    inputs: dict[str, Any]

    def note(
        self,
        problems: Problems,
        code: str,
        message: str,
        input: str | None = None,
        near: str | None = None,
        on_key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Notes a problem of the node; see NodeDeclaration.note."""
        self.declaration.note(
            problems, code, message, id=self.id, input=input, near=near, on_key=on_key, severity=severity
        )


@dataclass(slots=True)
class Alias:
    """What a reference to an id stands for when no node has that id: values by port name, or for a loop those of its copies."""

    ports: Mapping[str, Any] | None
    copies: list[Ref] = field(default_factory=list)


@dataclass(slots=True)
class Flat:
    """The expanded document.

    top: the ids that each declared node became. spare: what the cases that a settled Switch did not take refer to. scopes: the
    documents in use by the prefix of their ids. unread: what is given to documents that are not there, or have no such input.
    """

    budget: Budget
    nodes: dict[str, FlatNode] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    top: dict[str, list[str]] = field(default_factory=dict)
    spare: list[Ref] = field(default_factory=list)
    scopes: dict[str, Scope] = field(default_factory=dict)
    unread: list[FlatNode] = field(default_factory=list)

    def scope_of(self, id: str) -> tuple[Scope | None, str]:
        """Returns the scope that a full id belongs to, and the name that it has there."""
        prefix, slash, name = id.rpartition("/")
        return self.scopes.get(prefix + slash), name


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a part of a reference stands for no node. unknown: the id that is not there, or not yet."""

    code: str
    message: str
    unknown: str | None = None

    def near(self, flat: Flat, problems: Problems) -> str | None:
        """Returns the name of a node of the same document that looks like the one that is not there."""
        if self.unknown is None:
            return None
        scope, name = flat.scope_of(self.unknown)
        return problems.near(name, scope.document.nodes) if scope else None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The nodes that a reference stands for, in order; `many` if a loop or a list is behind it, however few there are."""

    refs: tuple[Ref, ...]
    many: bool = False
    failures: tuple[Failure, ...] = ()


def resolve(flat: Flat, ref: Ref) -> Resolved:
    """Returns what a reference stands for. A part whose reason to fail is noted already is left out."""
    if ref.node in flat.nodes:
        return Resolved((ref,))
    refs: list[Ref] = []
    failures: dict[Failure, None] = {}
    many = False
    pending: list[tuple[Any, int]] = [(ref, 0)]
    while pending:
        value, hops = pending.pop()
        flat.budget.spend()
        if isinstance(value, list):
            many = True
            pending.extend((item, hops) for item in reversed(value))
        elif isinstance(value, Ref) and value.node in flat.nodes:
            refs.append(value)
        elif isinstance(value, Ref) and hops > len(flat.aliases):
            failures[Failure("cycle", f"{ref.words!r} stands for itself")] = None
        elif isinstance(value, Ref):
            following, failure = _follow(flat, value)
            if failure is not None:
                failures[failure] = None
            else:
                pending.append((following, hops + 1))
        elif not isinstance(value, Missing):
            message = f"{ref.words!r} stands for {shown(value)}, which is no node"
            failures[Failure("wrong-type", message)] = None
    return Resolved(tuple(refs), many, tuple(failures))


def _follow(flat: Flat, ref: Ref) -> tuple[Any, Failure | None]:
    """Returns what a reference to an alias stands for, or why it stands for nothing."""
    alias = flat.aliases.get(ref.node)
    if alias is None:
        return None, Failure("dangling-link", f"there is no node {ref.node.rpartition('/')[2]!r}", ref.node)
    if alias.ports is None:
        return [Ref(copy.node, ref.port, copy.words) for copy in alias.copies], None
    if ref.port is not None and ref.port in alias.ports:
        return alias.ports[ref.port], None
    if ref.port is None and len(alias.ports) == 1:
        return next(iter(alias.ports.values())), None
    known = names(alias.ports)
    if ref.port is None:
        has = f"has several outputs ({known}); name one" if alias.ports else "has no output"
        return None, Failure("unknown-port", f"{ref.words!r} {has}")
    return None, Failure("unknown-port", f"{ref.words!r} names no output; known: {known}")

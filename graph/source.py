"""Text to a plain tree that remembers its places. Knows nothing of what the tree means.

YAML and JSON come as a stream of events into one builder that holds the limits, so nothing larger than a limit is ever
built: no recursion, no expansion of aliases beyond the value budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .json_syntax import json_events
from .problems import Mark, Place
from .report import Problems
from .syntax import Event, as_text, stop
from .wording import shown
from .yaml_syntax import yaml_events


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may be at most. A document beyond a limit is refused with an error that names the limit.

    values: as read, aliases written out. nodes: as read, and once loops and subgraphs are expanded; expanded: values then.
    """

    bytes: int = 4 * 1024 * 1024
    depth: int = 32
    values: int = 1_000_000
    aliases: int = 1_000
    nodes: int = 200_000
    expanded: int = 5_000_000


class LocatedMap(dict[str, Any]):
    """A mapping read from text. `keys_at` and `values_at` say where each key and value stands."""

    __slots__ = ("keys_at", "values_at")

    def __init__(self) -> None:
        super().__init__()
        self.keys_at: dict[str, Mark] = {}
        self.values_at: dict[str, Mark] = {}


class LocatedList(list[Any]):
    """A list read from text. `items_at` says where each item stands."""

    __slots__ = ("items_at",)

    def __init__(self) -> None:
        super().__init__()
        self.items_at: list[Mark] = []


def value_mark(container: object, key: str | int) -> Mark | None:
    """Returns where a value stands, or None for a tree that was not read from text."""
    if isinstance(container, LocatedMap) and isinstance(key, str):
        return container.values_at.get(key)
    if isinstance(container, LocatedList) and isinstance(key, int) and key < len(container.items_at):
        return container.items_at[key]
    return None


def key_mark(container: object, key: str) -> Mark | None:
    """Returns where a key stands, or None for a tree that was not read from text."""
    return container.keys_at.get(key) if isinstance(container, LocatedMap) else None


def read_tree(
    text: str | bytes,
    *,
    syntax: Literal["yaml", "json"],
    file: str | None,
    problems: Problems,
    limits: Limits = Limits(),
) -> Any:
    """Returns the tree of a text: LocatedMap, LocatedList, str, int, float, bool or None.

    Duplicate keys are noted in `problems` (the first wins). Raises InvalidWorkflow where the text can't be read on: bad
    encoding, bad syntax, or beyond a limit.
    """
    size = len(text)
    if size > limits.bytes:
        raise stop(file, None, "limit-bytes", f"the document has {size:,} bytes; at most {limits.bytes:,} are read")
    text = as_text(text, file)
    events = yaml_events(text, file) if syntax == "yaml" else json_events(text, file)
    return _Builder(file, limits, problems).build(events)


class _Frame:
    """A container that is being filled."""

    __slots__ = ("anchor", "container", "depth", "key", "key_at", "size_before")

    def __init__(self, container: LocatedMap | LocatedList, anchor: str | None, size_before: int) -> None:
        self.container = container
        self.anchor = anchor
        self.size_before = size_before
        self.depth = 1  # how many levels it holds, itself among them
        self.key: str | None = None
        self.key_at: Mark | None = None


class _Builder:
    """Builds the tree from events and holds the limits."""

    def __init__(self, file: str | None, limits: Limits, problems: Problems) -> None:
        self.file, self.limits, self.problems = file, limits, problems
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # the value, its size, its depth
        self.size = 0
        self.aliases = 0
        self.root: Any = None

    def build(self, events: Iterator[Event]) -> Any:
        for event in events:
            self.count(1, event.mark)
            if event.kind == "scalar":
                if event.anchor:
                    self.anchors[event.anchor] = (event.value, 1, 0)
                self.place(event.value, event.mark)
            elif event.kind == "end":
                self.close()
            elif event.kind == "alias":
                self.place(self.resolve(event), event.mark)
            else:
                self.open(event)
        return self.root

    def count(self, values: int, mark: Mark) -> None:
        self.size += values
        if self.size > self.limits.values:
            raise stop(
                self.file,
                mark,
                "limit-values",
                f"the document holds more than {self.limits.values:,} values once its aliases are written out",
            )

    def open(self, event: Event) -> None:
        container = LocatedMap() if event.kind == "map" else LocatedList()
        self.place(container, event.mark)
        self.check_depth(1, event.mark)
        self.stack.append(_Frame(container, event.anchor, self.size))

    def close(self) -> None:
        frame = self.stack.pop()
        if self.stack:
            self.stack[-1].depth = max(self.stack[-1].depth, frame.depth + 1)
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.container, self.size - frame.size_before, frame.depth)

    def resolve(self, event: Event) -> Any:
        self.aliases += 1
        if self.aliases > self.limits.aliases:
            message = f"the document uses more than {self.limits.aliases:,} aliases"
            raise stop(self.file, event.mark, "limit-aliases", message)
        if event.value not in self.anchors:
            inside = any(frame.anchor == event.value for frame in self.stack)
            where = "stands inside of what it stands for" if inside else "has no anchor before it"
            raise stop(self.file, event.mark, "syntax", f"the alias *{event.value} {where}")
        value, size, depth = self.anchors[event.value]
        self.count(size, event.mark)
        self.check_depth(depth, event.mark)
        if self.stack:
            self.stack[-1].depth = max(self.stack[-1].depth, depth + 1)
        return value

    def check_depth(self, more: int, mark: Mark) -> None:
        if len(self.stack) + more > self.limits.depth:
            message = f"the document is nested deeper than {self.limits.depth} levels"
            raise stop(self.file, mark, "limit-depth", message)

    def place(self, value: Any, mark: Mark) -> None:
        if not self.stack:
            self.root = value
            return
        frame = self.stack[-1]
        container = frame.container
        if isinstance(container, LocatedList):
            container.append(value)
            container.items_at.append(mark)
        elif frame.key_at is None:
            frame.key, frame.key_at = self.key(value, mark), mark
        else:
            if frame.key is not None:
                container[frame.key] = value
                container.keys_at[frame.key] = frame.key_at
                container.values_at[frame.key] = mark
            frame.key = frame.key_at = None

    def key(self, value: Any, mark: Mark) -> str | None:
        """Returns the key, or None for one that is dropped because it stands twice."""
        if isinstance(value, dict | list):
            raise stop(self.file, mark, "syntax", "a key is a map or a list; keys are plain words")
        key = value if isinstance(value, str) else shown(value)
        container = self.stack[-1].container
        if isinstance(container, LocatedMap) and key in container:
            first = container.keys_at[key]
            message = f"the key {key!r} stands twice; it stood first at line {first.line}, column {first.column}."
            self.problems.add("duplicate-key", message, Place(self.file, mark))
            return None
        return key

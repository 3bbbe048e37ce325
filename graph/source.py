"""Text to a plain tree that remembers its places. Knows nothing of what the tree means.

YAML is read with the types of YAML 1.2's core schema: `no`, `on` and `1:30` are text, `1e3` is a number. JSON is read by
its own scanner, since YAML's reads neither surrogate pairs nor JSON's errors well. Both come as a stream of events into one
builder that holds the limits, so nothing larger than a limit is ever built: no recursion, no expansion of aliases beyond the
value budget.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Literal, NamedTuple

import yaml

from .errors import InvalidWorkflow
from .problems import Mark, Place, Problem, Problems, shown

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may be at most. A document beyond a limit is refused with an error that names the limit."""

    bytes: int = 4 * 1024 * 1024
    depth: int = 32
    values: int = 1_000_000
    aliases: int = 1_000
    nodes: int = 200_000


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
        raise _stop(file, None, "limit-bytes", f"the document has {size:,} bytes; at most {limits.bytes:,} are read")
    if isinstance(text, bytes):
        text = _decode(text, file)
    events = _yaml_events(text, file) if syntax == "yaml" else _json_events(text, file)
    return _Builder(file, limits, problems).build(events)


class _Event(NamedTuple):
    """One step of a document: `kind` is "map", "list", "end", "scalar" or "alias"."""

    kind: str
    mark: Mark
    value: Any = None
    anchor: str | None = None


class _Frame:
    """A container that is being filled."""

    __slots__ = ("anchor", "container", "key", "key_at", "size_before")

    def __init__(self, container: LocatedMap | LocatedList, anchor: str | None, size_before: int) -> None:
        self.container = container
        self.anchor = anchor
        self.size_before = size_before
        self.key: str | None = None
        self.key_at: Mark | None = None


class _Builder:
    """Builds the tree from events and holds the limits."""

    def __init__(self, file: str | None, limits: Limits, problems: Problems) -> None:
        self.file, self.limits, self.problems = file, limits, problems
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.size = 0
        self.aliases = 0
        self.root: Any = None

    def build(self, events: Iterator[_Event]) -> Any:
        for event in events:
            self.count(1, event.mark)
            if event.kind == "scalar":
                if event.anchor:
                    self.anchors[event.anchor] = (event.value, 1)
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
            raise _stop(
                self.file,
                mark,
                "limit-values",
                f"the document holds more than {self.limits.values:,} values once its aliases are written out",
            )

    def open(self, event: _Event) -> None:
        container = LocatedMap() if event.kind == "map" else LocatedList()
        self.place(container, event.mark)
        if len(self.stack) >= self.limits.depth:
            message = f"the document is nested deeper than {self.limits.depth} levels"
            raise _stop(self.file, event.mark, "limit-depth", message)
        self.stack.append(_Frame(container, event.anchor, self.size))

    def close(self) -> None:
        frame = self.stack.pop()
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.container, self.size - frame.size_before)

    def resolve(self, event: _Event) -> Any:
        self.aliases += 1
        if self.aliases > self.limits.aliases:
            raise _stop(
                self.file, event.mark, "limit-aliases", f"the document uses more than {self.limits.aliases:,} aliases"
            )
        if event.value not in self.anchors:
            raise _stop(self.file, event.mark, "syntax", f"the alias *{event.value} has no anchor before it")
        value, size = self.anchors[event.value]
        self.count(size, event.mark)
        return value

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
            raise _stop(self.file, mark, "syntax", "a key is a map or a list; keys are plain words")
        key = value if isinstance(value, str) else shown(value)
        container = self.stack[-1].container
        if isinstance(container, LocatedMap) and key in container:
            first = container.keys_at[key]
            message = f"the key {key!r} stands twice; it stood first at line {first.line}, column {first.column}"
            self.problems.add("duplicate-key", message, Place(self.file, mark))
            return None
        return key


_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_RADIX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = {
    sign + text: float(sign + number)
    for sign in ("", "-", "+")
    for text, number in ((".inf", "inf"), (".Inf", "inf"), (".INF", "inf"), (".nan", "nan"), (".NaN", "nan"))
}
_MAX_DIGITS = 4000  # Python refuses longer integers (int_max_str_digits is 4300)


def _plain_scalar(text: str) -> Any:
    """Returns the value of an unquoted YAML scalar (YAML 1.2.2, section 10.3.2, core schema)."""
    if not text or text[0] not in "-+.0123456789~nNtTfF":
        return None if text in _NULL else text
    if text in _NULL:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) < _MAX_DIGITS:
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        if _RADIX.match(text):
            return int(text, 0)
    return _SPECIAL.get(text, text)


def _yaml_events(text: str, file: str | None) -> Iterator[_Event]:
    documents = 0
    try:
        event: Any
        for event in yaml.parse(text, Loader=_LOADER):
            kind = type(event)
            mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
            if kind is yaml.ScalarEvent:
                value = event.value
                if event.implicit[0]:
                    value = _plain_scalar(value)
                elif event.tag not in (None, "!", "tag:yaml.org,2002:str"):
                    raise _stop(file, mark, "syntax", f"the tag {event.tag!r} is not read; write the plain value")
                yield _Event("scalar", mark, value, event.anchor)
            elif kind is yaml.MappingStartEvent:
                yield _Event("map", mark, None, event.anchor)
            elif kind is yaml.SequenceStartEvent:
                yield _Event("list", mark, None, event.anchor)
            elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                yield _Event("end", mark)
            elif kind is yaml.AliasEvent:
                yield _Event("alias", mark, event.anchor)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise _stop(file, mark, "syntax", "the file holds several YAML documents; a workflow is one")
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        where = Mark(at.line + 1, at.column + 1) if at else None
        raise _stop(file, where, "syntax", _yaml_words(error, text)) from None
    except yaml.YAMLError as error:
        raise _stop(file, None, "syntax", f"this is not YAML: {str(error).splitlines()[0]}") from None


def _yaml_words(error: yaml.MarkedYAMLError, text: str) -> str:
    at = error.problem_mark
    if at is not None and "\\t" in repr(error.problem or ""):
        return "a tab is used as indentation; YAML takes spaces only"
    if at is not None:
        lines = text.splitlines()
        line = lines[at.line] if at.line < len(lines) else ""
        if line[: at.column + 1].lstrip(" ").startswith("\t"):
            return "a tab is used as indentation; YAML takes spaces only"
    context = f" ({error.context})" if error.context else ""
    return f"this is not YAML: {error.problem or 'unreadable'}{context}"


_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_JSON_WORDS = {"true": True, "false": False, "null": None}


def _json_events(text: str, file: str | None) -> Iterator[_Event]:
    """Yields the events of a JSON text (RFC 8259) without recursion; NaN and Infinity are syntax errors, as in the RFC."""
    line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
    line = 0

    def mark(at: int) -> Mark:
        nonlocal line
        while line + 1 < len(line_starts) and line_starts[line + 1] <= at:
            line += 1
        return Mark(line + 1, at - line_starts[line] + 1)

    def stop(at: int, expected: str) -> InvalidWorkflow:
        found = f"found {text[at : at + 12]!r}" if at < len(text) else "the text ends"
        return _stop(file, mark(at), "syntax", f"this is not JSON: {found} where {expected} was expected")

    def skip(at: int) -> int:
        match = _JSON_SPACE.match(text, at)
        return match.end() if match else at

    def string(at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(text, at + 1, True)
            return str(value), int(end)
        except json.JSONDecodeError as error:
            raise _stop(file, mark(min(error.pos, len(text))), "syntax", f"this is not JSON: {error.msg}") from None

    open_kinds: list[str] = []
    at = skip(1 if text.startswith("\ufeff") else 0)
    expect = "value"
    while True:
        char = text[at : at + 1]
        if expect in ("key", "key or end"):
            if char == "}" and expect == "key or end":
                expect = "close"
                continue
            if char != '"':
                raise stop(at, "a key in double quotes")
            here = mark(at)
            key, end = string(at)
            yield _Event("scalar", here, key)
            at = skip(end)
            if text[at : at + 1] != ":":
                raise stop(at, "':'")
            at, expect = skip(at + 1), "value"
            continue
        if expect == "close" or (expect == "value or end" and char == "]"):
            yield _Event("end", mark(at))
            open_kinds.pop()
            at = skip(at + 1)
        elif char in ("{", "["):
            yield _Event("map" if char == "{" else "list", mark(at))
            open_kinds.append(char)
            at, expect = skip(at + 1), "key or end" if char == "{" else "value or end"
            continue
        elif char == '"':
            here = mark(at)
            value, end = string(at)
            yield _Event("scalar", here, value)
            at = skip(end)
        else:
            number = _JSON_NUMBER.match(text, at)
            word = next((word for word in _JSON_WORDS if text.startswith(word, at)), None)
            if number and len(number[0]) < _MAX_DIGITS:
                yield _Event("scalar", mark(at), float(number[0]) if number[1] or number[2] else int(number[0]))
                at = skip(number.end())
            elif word:
                yield _Event("scalar", mark(at), _JSON_WORDS[word])
                at = skip(at + len(word))
            else:
                raise stop(at, "a value")
        if not open_kinds:
            if at < len(text):
                raise stop(at, "the end")
            return
        char = text[at : at + 1]
        closing = "}" if open_kinds[-1] == "{" else "]"
        if char == ",":
            at, expect = skip(at + 1), "key" if closing == "}" else "value"
        elif char == closing:
            expect = "close"
        else:
            raise stop(at, f"',' or '{closing}'")


def _decode(data: bytes, file: str | None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"the text is not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        raise _stop(file, Mark(line, column), "syntax", message) from None


def _stop(file: str | None, mark: Mark | None, code: str, message: str) -> InvalidWorkflow:
    return InvalidWorkflow([Problem(code, message + ".", Place(file, mark))])

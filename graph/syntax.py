"""Syntax: a text as a stream of events. Knows no tree, no limit, and nothing of what the events mean.

YAML is read with the types of YAML 1.2's core schema: `no`, `on` and `1:30` are text, `1e3` is a number. JSON is read by
its own scanner, since YAML's reads neither surrogate pairs nor JSON's errors well.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import yaml

from .errors import InvalidWorkflow
from .problems import Mark, Place, Problem

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Event(NamedTuple):
    """One step of a document: `kind` is "map", "list", "end", "scalar" or "alias"."""

    kind: str
    mark: Mark
    value: Any = None
    anchor: str | None = None


class _ReadAheadLimit(Exception):
    """libyaml stopped at nesting that lies ahead of the events it has given."""


def yaml_events(text: str, file: str | None) -> Iterator[Event]:
    """Yields the events of a YAML text that holds one document. Raises InvalidWorkflow where it can't be read on."""
    given = 0
    try:
        for event in _yaml_events(text, file, _LOADER):
            given += 1
            yield event
    except _ReadAheadLimit:  # the reader in Python has no such limit: whoever counts levels comes to them one by one
        yield from islice(_yaml_events(text, file, yaml.SafeLoader), given, None)


def _yaml_events(text: str, file: str | None, loader: Any) -> Iterator[Event]:
    documents = 0
    try:
        event: Any
        for event in yaml.parse(text, Loader=loader):
            kind = type(event)
            mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
            if kind is yaml.ScalarEvent:
                yield Event("scalar", mark, _yaml_scalar(event, mark, file), event.anchor)
            elif kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
                _refuse_tag(event.tag, mark, file, kind is yaml.MappingStartEvent)
                yield Event("map" if kind is yaml.MappingStartEvent else "list", mark, None, event.anchor)
            elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                yield Event("end", mark)
            elif kind is yaml.AliasEvent:
                yield Event("alias", mark, event.anchor)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise stop(file, mark, "syntax", "the file holds several YAML documents; a workflow is one")
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        where = Mark(at.line + 1, at.column + 1) if at else None
        if "nesting depth" in (error.problem or ""):
            raise _ReadAheadLimit from None
        raise stop(file, where, "syntax", _yaml_words(error, text)) from None
    except yaml.YAMLError as error:
        raise stop(file, None, "syntax", f"this is not YAML: {str(error).splitlines()[0]}") from None


def json_events(text: str, file: str | None) -> Iterator[Event]:
    """Yields the events of a JSON text (RFC 8259). Raises InvalidWorkflow where it can't be read on."""
    return _JsonReader(text, file).events()


def as_text(text: str | bytes, file: str | None) -> str:
    """Returns a text decoded from UTF-8. Raises InvalidWorkflow for what is no text."""
    if isinstance(text, bytes):
        return _decode(text, file)
    if not _is_text(text):
        raise stop(file, None, "syntax", "the text holds half a surrogate pair, which stands for no character")
    return text


def stop(file: str | None, mark: Mark | None, code: str, message: str) -> InvalidWorkflow:
    """Returns the exception for a text that can't be read on."""
    return InvalidWorkflow([Problem(code, message + ".", Place(file, mark))])


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


def _yaml_scalar(event: Any, mark: Mark, file: str | None) -> Any:
    if event.implicit[0]:
        return _plain_scalar(event.value)
    if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
        raise _unread_tag(event.tag, mark, file)
    return event.value


def _refuse_tag(tag: str | None, mark: Mark, file: str | None, is_map: bool) -> None:
    """Raises InvalidWorkflow for a map or list that a tag makes something else."""
    if tag not in (None, "!", f"tag:yaml.org,2002:{'map' if is_map else 'seq'}"):
        raise _unread_tag(tag, mark, file)


def _unread_tag(tag: str | None, mark: Mark, file: str | None) -> InvalidWorkflow:
    return stop(file, mark, "syntax", f"the tag {tag!r} is not read; write the plain value")


def _yaml_words(error: yaml.MarkedYAMLError, text: str) -> str:
    at = error.problem_mark
    if at is not None and "\\t" in repr(error.problem or ""):
        return "a tab is used as indentation; YAML takes spaces only"
    if at is not None:
        lines = text.splitlines()
        line = lines[at.line] if at.line < len(lines) else ""
        if line[: at.column + 1].lstrip(" ").startswith("\t"):
            return "a tab is used as indentation; YAML takes spaces only"
    begun = error.context_mark
    where = f" that begins at line {begun.line + 1}, column {begun.column + 1}" if begun else ""
    context = f" ({error.context}{where})" if error.context else ""
    colon = "; put a text with ': ' in it in quotes" if "mapping values" in (error.problem or "") else ""
    return f"this is not YAML: {error.problem or 'unreadable'}{context}{colon}"


class _JsonReader:
    """Yields the events of a JSON text (RFC 8259) without recursion; NaN and Infinity are syntax errors, as in the RFC."""

    _SPACE = re.compile(r"[ \t\n\r]*")
    _NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
    _WORD = re.compile(r"true|false|null")
    _WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
    _HINTS = (
        (("NaN", "Infinity", "-Infinity"), "; JSON has no such number"),
        (("//", "/*", "#"), "; JSON has no comments, and YAML has"),
        (("'",), "; JSON has double quotes only"),
    )

    def __init__(self, text: str, file: str | None) -> None:
        self.text, self.file = text, file
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.at = 1 if text.startswith("\ufeff") else 0

    def events(self) -> Iterator[Event]:
        """Yields the events of the one value that the text is."""
        closers: list[str] = []
        self.skip(0)
        while True:
            if closers and closers[-1] == "}":
                yield self.key()
            if self.peek() in ("{", "["):
                yield self.opened(closers)
                if self.peek() != closers[-1]:
                    continue
            else:
                yield self.scalar()
            while closers and self.peek() == closers[-1]:
                closers.pop()
                yield Event("end", self.mark(self.at))
                self.skip(1)
            if not closers:
                break
            self.expect(",", f"',' or '{closers[-1]}'")
        if self.at < len(self.text):
            raise self.unexpected("the end")

    def opened(self, closers: list[str]) -> Event:
        """Returns the event of a map or list that opens, and notes what closes it."""
        is_map = self.peek() == "{"
        event = Event("map" if is_map else "list", self.mark(self.at))
        closers.append("}" if is_map else "]")
        self.skip(1)
        return event

    def key(self) -> Event:
        if self.peek() != '"':
            raise self.unexpected("a key in double quotes")
        event = self.string()
        self.expect(":", "':'")
        return event

    def scalar(self) -> Event:
        if self.peek() == '"':
            return self.string()
        mark = self.mark(self.at)
        if match := self._WORD.match(self.text, self.at):
            value = self._WORDS[match[0]]
        elif (match := self._NUMBER.match(self.text, self.at)) and len(match[0]) < _MAX_DIGITS:
            value = float(match[0]) if match[1] or match[2] else int(match[0])
        else:
            raise self.unexpected("a value")
        self.skip(len(match[0]))
        return Event("scalar", mark, value)

    def string(self) -> Event:
        mark = self.mark(self.at)
        try:
            value, end = scanstring(self.text, self.at + 1, True)
        except json.JSONDecodeError as error:
            at = self.mark(min(error.pos, len(self.text)))
            raise stop(self.file, at, "syntax", f"this is not JSON: {error.msg}") from None
        if not _is_text(value):
            raise stop(self.file, mark, "syntax", "this is not JSON: half a surrogate pair stands for no character")
        self.skip(end - self.at)
        return Event("scalar", mark, value)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, count: int) -> None:
        """Goes on by some characters and the white space behind them."""
        match = self._SPACE.match(self.text, self.at + count)
        self.at = match.end() if match else self.at + count

    def expect(self, char: str, words: str) -> None:
        if self.peek() != char:
            raise self.unexpected(words)
        self.skip(1)

    def mark(self, at: int) -> Mark:
        line = bisect_right(self.line_starts, at)
        return Mark(line, at - self.line_starts[line - 1] + 1)

    def unexpected(self, expected: str) -> InvalidWorkflow:
        rest = self.text[self.at : self.at + 12].partition("\n")[0]
        found = f"found {rest!r}" if self.peek() else "the text ends"
        words = f"this is not JSON: {found} where {expected} was expected"
        hint = next((hint for start, hint in self._HINTS if rest.startswith(start)), "")
        if rest[:1] in ("}", "]") and self.text[max(0, self.at - 100) : self.at].rstrip().endswith(","):
            hint = "; remove the comma before it"
        return stop(self.file, self.mark(self.at), "syntax", words + hint)


def _decode(data: bytes, file: str | None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"the text is not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        raise stop(file, Mark(line, column), "syntax", message) from None


def _is_text(value: str) -> bool:
    """Returns whether a string has an encoding; half a surrogate pair has none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

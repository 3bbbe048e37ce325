"""JSON as events, by a scanner of its own, since YAML's reads neither surrogate pairs nor JSON's errors well."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from .errors import InvalidWorkflow
from .problems import Mark
from .syntax import MAX_DIGITS, Event, is_text, stop


def json_events(text: str, file: str | None) -> Iterator[Event]:
    """Yields the events of a JSON text (RFC 8259). Raises InvalidWorkflow where it can't be read on."""
    return _JsonReader(text, file).events()


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
        elif (match := self._NUMBER.match(self.text, self.at)) and len(match[0]) < MAX_DIGITS:
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
        if not is_text(value):
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

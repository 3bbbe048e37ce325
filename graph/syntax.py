"""Syntax: a text as a stream of events. Knows no tree, no limit, and nothing of what the events mean.

`yaml_syntax` and `json_syntax` make the events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .errors import InvalidWorkflow
from .problems import Mark, Place, Problem

MAX_DIGITS = 4000  # Python refuses longer integers (int_max_str_digits is 4300)


class Event(NamedTuple):
    """One step of a document: `kind` is "map", "list", "end", "scalar" or "alias"."""

    kind: str
    mark: Mark
    value: Any = None
    anchor: str | None = None


def as_text(text: str | bytes, file: str | None) -> str:
    """Returns a text decoded from UTF-8. Raises InvalidWorkflow for what is no text."""
    if isinstance(text, bytes):
        return _decode(text, file)
    if not is_text(text):
        raise stop(file, None, "syntax", "the text holds half a surrogate pair, which stands for no character")
    return text


def stop(file: str | None, mark: Mark | None, code: str, message: str) -> InvalidWorkflow:
    """Returns the exception for a text that can't be read on."""
    return InvalidWorkflow([Problem(code, message + ".", Place(file, mark))])


def _decode(data: bytes, file: str | None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"the text is not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        raise stop(file, Mark(line, column), "syntax", message) from None


def is_text(value: str) -> bool:
    """Returns whether a string has an encoding; half a surrogate pair has none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

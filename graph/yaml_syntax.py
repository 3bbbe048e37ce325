"""YAML as events, with the types of YAML 1.2's core schema: `no`, `on` and `1:30` are text, `1e3` is a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

from .errors import InvalidWorkflow
from .problems import Mark
from .syntax import MAX_DIGITS, Event, stop

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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


def _plain_scalar(text: str) -> Any:
    """Returns the value of an unquoted YAML scalar (YAML 1.2.2, section 10.3.2, core schema)."""
    if not text or text[0] not in "-+.0123456789~nNtTfF":
        return None if text in _NULL else text
    if text in _NULL:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) < MAX_DIGITS:
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

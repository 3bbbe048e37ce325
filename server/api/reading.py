"""Reading: JSON and YAML texts to trees, within bounds, and trees to canonical JSON.

What is right is read by the fast parser; what is not is read again by the engine's own, which is slower and says where the
error is. Both take the same texts, so that no document means one thing here and another there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

from latentgraph.graph import Document, InvalidWorkflow, Limits, Problem, document_from_tree
from latentgraph.graph.report import Problems
from latentgraph.graph.source import read_tree

Syntax = Literal["json", "yaml"]

_MAX_DIGITS = 4000  # of a whole number, as the slow parser has it


class _Unusual(ValueError):
    """A text that is for the slow parser to judge."""


def syntax_of(media_type: str) -> Syntax:
    """Returns how a document of a media type is written."""
    return "json" if media_type.endswith("json") else "yaml"


def read_document(data: bytes | str, syntax: Syntax, limits: Limits) -> Document:
    """Returns the document in a text, its problems noted. Raises InvalidWorkflow if it can't be read at all."""
    problems = Problems()
    tree = _read_slowly(data, syntax, limits, problems)  # which knows places
    return document_from_tree(tree, problems=problems, limits=limits)


def read_json(data: bytes | str, limits: Limits) -> Any:
    """Returns the tree of a JSON text: every key once, all numbers finite, all texts writable.

    Raises InvalidWorkflow, which says where it is wrong.
    """
    if len(data) <= limits.bytes:
        try:
            text = data.decode() if isinstance(data, bytes) else data
            if "\\ud" not in text and "\\uD" not in text:
                tree = _DECODER.decode(text)
                text.encode()
                if not _is_deeper(tree, limits.depth):
                    return tree
        except (ValueError, RecursionError):
            pass
    problems = Problems()
    tree = _read_slowly(data, "json", limits, problems)
    problems.raise_errors()
    return tree


def canonical(tree: Any) -> str:
    """Returns a tree as JSON that any JSON parser reads: ASCII, no blanks. Order is kept; it means something in documents."""
    return json.dumps(tree, allow_nan=False, separators=(",", ":"))


def _read_slowly(data: bytes | str, syntax: Syntax, limits: Limits, problems: Problems) -> Any:
    tree = read_tree(data, syntax=syntax, file=None, problems=problems, limits=limits)
    size = 0
    for value in _leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            words = "a number is infinite or none at all, or too large to be one; no input takes it."
            raise InvalidWorkflow([Problem("wrong-type", words)])
        size += len(value) if isinstance(value, str) else 8
    if size > limits.bytes:
        words = f"the document has {size:,} bytes once its aliases are written out; at most {limits.bytes:,} are read."
        raise InvalidWorkflow([Problem("limit-bytes", words)])
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unusual
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unusual
    return value


def _whole(text: str) -> int:
    if len(text) >= _MAX_DIGITS:
        raise _Unusual
    return int(text)


def _refused(text: str) -> Any:
    raise _Unusual(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_refused)


def _is_deeper(tree: Any, limit: int) -> bool:
    """Returns whether a tree has more levels than a limit."""
    level = [tree]
    for _ in range(limit):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def _leaves(tree: Any) -> Iterator[Any]:
    """Yields the keys and plain values of a tree."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield value

"""The weight grammar of prompts: `a (cat:1.3)` is "a " at weight 1 and "cat" at 1.3.

Knows no tokens and no tensors. Time and memory are linear in the prompt's length, and nothing recurses, so no
prompt can exhaust the stack.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from typing import NamedTuple

GROUP_WEIGHT = 1.1  # what a pair of brackets without a number multiplies the weight with


class WeightedText(NamedTuple):
    """A piece of a prompt and how strongly it counts; 1 is neutral, and 0 and negative weights are allowed."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[WeightedText]:
    """Returns the pieces of `prompt` with their weights, in order.

    `(text)` multiplies the weight by 1.1, `(text:1.3)` sets it to 1.3 whatever the brackets around it say, and `\\(`
    and `\\)` are literal brackets. Brackets without a partner are text, and so is anything after a colon that is no
    finite number. Square brackets mean nothing. As in ComfyUI 0.8.0 (behaviour), except that `(a:inf)` and `(a:nan)`
    are text there too: as weights they could only blacken the picture.
    """
    brackets = _Brackets(prompt)
    items: list[WeightedText] = []
    todo = [_Span(0, len(prompt), 1.0, is_text=False)]
    while todo:
        span = todo.pop()
        if span.is_text:
            items.append(WeightedText(_ESCAPED.sub(r"\1", prompt[span.start : span.end]), span.weight))
        else:
            todo.extend(reversed(brackets.split(span)))
    return items


_ESCAPED = re.compile(r"\\([()])")
_MARK = re.compile(r"\\[()]|[():]")


class _Span(NamedTuple):
    start: int
    end: int
    weight: float
    is_text: bool


class _Brackets:
    """Where the brackets and colons of a prompt stand, and which brackets belong together."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._marks = [m.start() for m in _MARK.finditer(prompt) if m.group()[0] != "\\"]
        self._partner: dict[int, int] = {}
        opened: list[int] = []
        for position in self._marks:
            if prompt[position] == "(":
                opened.append(position)
            elif prompt[position] == ")" and opened:
                self._partner[opened.pop()] = position

    def split(self, span: _Span) -> list[_Span]:
        """The span's text and the insides of its groups. Reads only what stands outside of these groups."""
        parts: list[_Span] = []
        start, depth = span.start, 0
        i = bisect_left(self._marks, span.start)
        while i < len(self._marks) and self._marks[i] < span.end:
            position, mark = self._marks[i], self._prompt[self._marks[i]]
            i += 1
            if mark == "(" and depth == 0:
                if position > start:
                    parts.append(_Span(start, position, span.weight, is_text=True))
                start = min(self._partner.get(position, span.end) + 1, span.end)
                parts.append(self._item(position, start, span.weight))
                i = bisect_left(self._marks, start)
            elif mark != ":":  # a closing bracket without a partner, and what follows until it is made up for
                depth += 1 if mark == "(" else -1
        if start < span.end:
            parts.append(_Span(start, span.end, span.weight, is_text=True))
        return parts

    def _item(self, start: int, end: int, weight: float) -> _Span:
        """What begins with a bracket at `start`: a group if it also ends with one, otherwise text."""
        last = bisect_left(self._marks, end) - 1
        if self._marks[last] != end - 1 or self._prompt[end - 1] != ")":
            return _Span(start, end, weight, is_text=True)
        start, end, mark = start + 1, end - 1, self._marks[last - 1]
        if self._prompt[mark] == ":" and mark > start:  # a number holds no bracket, so no other mark introduces one
            number = _finite(self._prompt[mark + 1 : end])
            if number is not None:
                return _Span(start, mark, number, is_text=False)
        return _Span(start, end, weight * GROUP_WEIGHT, is_text=False)


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

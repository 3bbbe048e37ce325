"""A foreach: which inputs each of its copies gets. What its lists hold is evaluated elsewhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

Items = Callable[[str, Any], list[Any] | None]
"""Returns what a loop goes over by the name of an input and what the document says of it; None if that is not known yet."""


def copies_of(
    foreach: Mapping[str, Any], items_of: Items, most: int, note: Callable[[str, str], None]
) -> list[dict[str, Any]] | None:
    """Returns the inputs of each copy, none if there is something wrong (noted), or None if its lists are not known yet."""
    mode, loop = _read(foreach)
    if mode is None and len(loop) > 1:
        note(
            "ambiguous-foreach",
            "'foreach' has several lists; say how they go together: {zip: {...}} or {product: {...}}.",
        )
        return []
    if not loop:
        note("wrong-type", f"'foreach' has a {mode} of no lists; expected some, such as {{{mode}: {{seed: [1, 2]}}}}.")
        return []
    lists: dict[str, list[Any]] = {}
    for name, raw in loop.items():
        items = items_of(name, raw)
        if items is None:
            return None
        lists[name] = items
    lengths = {name: len(items) for name, items in lists.items()}
    count = math.prod(lengths.values()) if mode == "product" else max(lengths.values())
    if count > most:
        note("limit-nodes", f"'foreach' makes {count:,} copies; at most {most:,} are made.")
        return []
    if mode != "product" and 0 not in lengths.values() and len(set(lengths.values())) > 1:
        several = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        note("wrong-length", f"'foreach' zips lists of different lengths: {several}.")
        return []
    rows = itertools.product(*lists.values()) if mode == "product" else zip(*lists.values(), strict=False)
    return [dict(zip(lists, row, strict=True)) for row in rows]


def _read(foreach: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Returns how several lists go together, "zip", "product" or None for one alone, and the lists."""
    if len(foreach) == 1:
        for mode in ("zip", "product"):
            if isinstance(lists := foreach.get(mode), dict):
                return mode, lists
    return None, foreach

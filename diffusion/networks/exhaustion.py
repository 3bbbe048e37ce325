"""Running out of memory, said so that a person can do something about it: what was asked for, what there is, what would fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import torch

_ASKED = re.compile(r"(?:tried to allocate|Unable to allocate) ([\d.]+) ?(bytes|[KMGTP]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # of torch's RuntimeErrors that are about memory


class OutOfMemoryError(MemoryError):
    """A computation was refused memory: what it asked for, what is free, and which setting would fit."""


class Shortage(NamedTuple):
    """What was asked for at once, 0 if that is not known, and what was free, in bytes."""

    asked: int
    free: int


Advice = Callable[[Shortage], str]
"""Says which setting would fit, in a sentence."""


def asked_bytes(error: BaseException) -> int | None:
    """Returns how many bytes were refused, 0 if the error does not say; None for an error about anything else."""
    words = str(error)
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in words for sign in _SIGNS)
    if not is_memory or isinstance(error, OutOfMemoryError):
        return None
    match = _ASKED.search(words)
    return int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0


def smaller_pictures(items: int, width: int, height: int) -> Advice:
    """Returns what says how many pictures, or how large a one, would fit; sides in pixels. Need grows at least as pixels do."""

    def advice(shortage: Shortage) -> str:
        share = min(0.5, shortage.free / shortage.asked if shortage.asked else 0.5)
        if items > 1:
            return f"Of {items} pictures of {width}x{height} at once, {max(1, int(items * share))} would fit."
        w, h = (max(64, int(side * share**0.5) // 64 * 64) for side in (width, height))
        return f"Instead of {width}x{height} pixels, {w}x{h} would fit. {_FEWER_BITS}"

    return advice


def general_advice(shortage: Shortage) -> str:
    """Returns what helps any network."""
    return f"A smaller picture or batch takes less. {_FEWER_BITS}"


_FEWER_BITS = "A file of the model in fewer bits (float8, GGUF) leaves more free."

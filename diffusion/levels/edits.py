"""Lists of noise levels cut, turned around and filled up. Every function returns new tensors, float32 (n + 1,).

As in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..names import LevelSpacing
from .limits import written_levels

FIRST_OF_FLIPPED = 1e-4  # instead of a 0 in front, at which nothing could start


class SplitLevels(NamedTuple):
    """The levels of the first part of a run, and of the rest. They share the one at which they meet."""

    high: Tensor
    low: Tensor


def split(sigmas: Tensor, step: int) -> SplitLevels:
    """Returns the levels of the first `step` steps, and of the others."""
    return SplitLevels(sigmas[: step + 1].clone(), sigmas[step:].clone())


def split_by_denoise(sigmas: Tensor, denoise: float) -> SplitLevels:
    """Returns the levels so that the second part has the share `denoise` of the steps."""
    steps = max(len(sigmas) - 1, 0)
    kept = round(steps * denoise)
    return split(sigmas, steps - kept)


def without_repeats(sigmas: Tensor) -> Tensor:
    """Returns the levels without any that equals the one before: its step changes nothing, and many samplers divide by it."""
    return torch.cat([sigmas[:1], sigmas[1:][sigmas.diff() != 0]])


def flip(sigmas: Tensor) -> Tensor:
    """Returns the levels from the last to the first, to go from a picture to its noise."""
    flipped = sigmas.flip(0)
    if len(flipped) and flipped[0] == 0:
        flipped[0] = FIRST_OF_FLIPPED
    return flipped


def set_first(sigmas: Tensor, sigma: float) -> Tensor:
    """Returns the levels with another one to start from."""
    changed = sigmas.clone()
    changed[:1] = sigma
    return changed


def extend(
    sigmas: Tensor, steps: int, *, start_at_sigma: float, end_at_sigma: float, spacing: LevelSpacing = "linear"
) -> Tensor:
    """Returns the levels with each step that begins between the two levels divided into `steps`.

    start_at_sigma: below 0 is no upper limit. spacing: how the new levels lie between the old ones; cosine is denser at
    the lower one, sine at the upper.
    """
    upper = math.inf if start_at_sigma < 0 else start_at_sigma
    way = torch.arange(steps) / steps
    if spacing == "cosine":
        way = torch.sin(way * math.pi / 2)
    elif spacing == "sine":
        way = 1 - torch.cos(way * math.pi / 2)
    parts = [s + (t - s) * way if end_at_sigma <= s <= upper else s[None] for s, t in pairwise(sigmas.unbind())]
    return torch.cat([*parts, sigmas[-1:]])


def parse_levels(text: str) -> Tensor:
    """Returns the numbers of a text, whatever separates them. Raises ValueError, see `limits.written_levels`."""
    return torch.tensor(written_levels(text))

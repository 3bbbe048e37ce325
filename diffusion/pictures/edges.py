"""Edges of pictures, as hints for control networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..types import Image
from .sizes import LEAST_EDGED_SIDE

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
BLUR_SIDE, BLUR_SIGMA = 5, 1.0
TINY = 1e-6  # under the root of a gradient's length
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""(down, right) of the eight cells around one, clockwise from the right: the directions that an angle is rounded to."""


def find_edges(image: Image, *, low: float = 0.4, high: float = 0.8) -> Image:
    """Returns white edges on black, (B, H, W, 3): those steeper than `high`, and those steeper than `low` that touch them.

    Canny 1986, IEEE TPAMI 8(6); blur, gradient, rounding of angles and thresholds as in kornia's `canny` (Apache-2.0), which
    ComfyUI 0.8.0 uses. low, high: of the gradient's length, for values in 0..1. Raises ValueError if low is above high, and for
    pictures that are smaller than what they are blurred over.
    """
    if low > high:
        raise ValueError(
            f"the low threshold is {low}, above the high one of {high}; an edge must pass the low one first."
        )
    x = image.pixels.movedim(-1, 1)[:, :3]
    h, w = x.shape[2:]
    if min(h, w) < LEAST_EDGED_SIDE:
        raise ValueError(
            f"cannot find edges in pictures of {w}x{h} pixels; their sides must be at least {LEAST_EDGED_SIDE}."
        )
    grey = (x * x.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    dx, dy = _gradient(_blurred(grey))
    steepness = (dx * dx + dy * dy + TINY).sqrt()
    steepness = steepness * _is_ridge(steepness, torch.atan2(dy, dx))
    strong, weak = steepness > high, (steepness > low) & (steepness <= high)
    while True:
        joined = weak & _touched(strong)
        if not joined.any():
            return Image(strong.float().expand(-1, 3, -1, -1).movedim(1, -1))
        strong, weak = strong | joined, weak & ~joined


def _blurred(x: Tensor) -> Tensor:
    at = torch.arange(BLUR_SIDE, dtype=x.dtype) - BLUR_SIDE // 2
    taps = torch.exp(-(at**2) / (2 * BLUR_SIGMA**2))
    taps = taps / taps.sum()
    edge = BLUR_SIDE // 2
    x = functional.pad(x, (edge,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(x, taps.reshape(1, 1, 1, -1)), taps.reshape(1, 1, -1, 1))


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's differences to the right and downwards."""
    kernel = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = functional.pad(x, (1,) * 4, mode="replicate")
    dx, dy = functional.conv2d(padded, torch.stack([kernel, kernel.T]).unsqueeze(1)).chunk(2, dim=1)
    return dx, dy


def _is_ridge(steepness: Tensor, angle: Tensor) -> Tensor:
    """Where no neighbour in the gradient's direction, or against it, is as steep; beyond the picture nothing is steep."""
    octant = (angle * (180.0 / math.pi) / 45).round().long() % 8
    beyond = steepness - torch.cat([_shifted(steepness, *step) for step in NEIGHBOURS], dim=1)
    ahead, behind = (beyond.gather(1, each) for each in (octant, (octant + 4) % 8))
    return torch.minimum(ahead, behind) > 0


def _touched(mask: Tensor) -> Tensor:
    """Where a cell, or one of its eight neighbours, is set."""
    return functional.max_pool2d(mask.float(), 3, stride=1, padding=1).bool()


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """The neighbour so many cells away, 0 beyond the edges."""
    h, w = x.shape[-2:]
    return functional.pad(x, (1,) * 4)[..., 1 + down : 1 + down + h, 1 + right : 1 + right + w]

"""How far pictures are from one another."""

from __future__ import annotations

import math

from ..types import Image

SAME = 100.0  # dB, given for pictures without any difference: float32 rounding alone comes to more than 120


def psnr(image: Image, other: Image) -> float:
    """Returns the peak signal-to-noise ratio in dB of RGB pictures in 0..1: -10 log10 of the mean squared difference.

    At most `SAME`, which equal pictures have. One picture is compared with each of a batch; an alpha channel does not count.
    Raises ValueError for pictures of other sizes, or batches of other lengths.
    """
    a, b = (each.pixels[..., :3].clamp(0.0, 1.0) for each in (image, other))
    if a.shape[1:] != b.shape[1:]:
        sizes = " and ".join(f"{each.shape[2]}x{each.shape[1]}" for each in (a, b))
        raise ValueError(f"pictures of {sizes} pixels can't be compared; scale or crop one to the size of the other.")
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(f"batches of {len(a)} and {len(b)} pictures can't be compared; give as many, or one.")
    error = (a - b).square().mean().item()
    return SAME if error == 0.0 else min(SAME, -10.0 * math.log10(error))

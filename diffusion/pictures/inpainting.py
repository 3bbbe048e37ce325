"""Pictures and masks made ready for inpainting and outpainting, as in ComfyUI 0.8.0 (behaviour).

Knows no autoencoder and no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from ..names import MaskedFill
from ..types import Image, Mask
from .sizes import Size, check_sides, middle


class MaskedImage(NamedTuple):
    """Pictures and the mask that belongs to them, of one size."""

    image: Image
    mask: Mask


def pad_for_outpaint(
    image: Image, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0, feathering: int = 40
) -> MaskedImage:
    """Returns the pictures with a grey border of that many pixels, and a mask (1, H, W) that is 1 there.

    Towards the inside the mask falls as ((f - d) / f)^2 with the distance d to the border, over f = `feathering`
    pixels; not at all if two such ramps do not fit into the picture's shorter side.
    """
    borders = {"left": left, "top": top, "right": right, "bottom": bottom}
    if negative := [f"{side} is {size}" for side, size in borders.items() if size < 0]:
        raise ValueError(f"{', '.join(negative)}; a border has at least 0 pixels. Crop to make a picture smaller.")
    batch, h, w, channels = image.pixels.shape
    pixels = torch.full((batch, top + h + bottom, left + w + right, channels), 0.5)
    pixels[:, top : top + h, left : left + w] = image.pixels
    mask = torch.ones(1, *pixels.shape[1:3])
    mask[:, top : top + h, left : left + w] = _feathering(h, w, borders, feathering)
    return MaskedImage(Image(pixels), Mask(mask))


_FILLS: Mapping[MaskedFill, float] = {"grey": 0.5, "black": 0.0}


def fill_masked(image: Image, mask: Mask, *, multiple: int = 8, fill: MaskedFill = "grey") -> MaskedImage:
    """Returns the pictures with mid-grey, or black, where the mask is above 0.5, and the mask at their size.

    The mask is stretched to the pictures; then both are cropped around their centre to sides that are multiples of
    `multiple`, the pixels per latent cell. The mask is not rounded: a network with mask channels takes it as it is.
    Raises ValueError for pictures smaller than a cell.
    """
    h, w = image.pixels.shape[1:3]
    check_sides(w, h, multiple)
    values = interpolate(mask.values.unsqueeze(1), size=(h, w), mode="bilinear").squeeze(1)
    kept = middle(Size(w, h), multiple)
    values = values[:, kept.rows, kept.columns]
    keep = (1.0 - values.round()).unsqueeze(-1)
    pixels = image.pixels[:, kept.rows, kept.columns, :3]
    level = _FILLS[fill]
    return MaskedImage(Image((pixels - level) * keep + level), Mask(values))


def grow_noise_mask(mask: Mask, *, pixels: int) -> Tensor:
    """Returns a noise mask (B, 1, H, W) of 0 and 1: the rounded mask, grown so that a point becomes a square.

    The square's side is `pixels`; an even one reaches a pixel further down and right than up and left.
    """
    rounded = mask.values.round().clamp(0.0, 1.0).unsqueeze(1)
    if pixels < 2:
        return rounded
    h, w = rounded.shape[2:]
    columns = max_pool2d(rounded, (pixels, 1), stride=1, padding=(pixels // 2, 0))
    return max_pool2d(columns, (1, pixels), stride=1, padding=(0, pixels // 2))[:, :, :h, :w]


def _feathering(h: int, w: int, borders: dict[str, int], f: int) -> Tensor:
    """(h, w): the mask inside of the picture. Sides without a border have no ramp."""
    if f <= 0 or 2 * f >= min(h, w):
        return torch.zeros(h, w)
    i, j = torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64)
    d = torch.full((h, w), torch.inf, dtype=torch.float64)
    distances = {"left": j, "right": w - j, "top": i.unsqueeze(-1), "bottom": (h - i).unsqueeze(-1)}
    for side, distance in distances.items():
        if borders[side]:
            d = torch.minimum(d, distance)
    return (((f - d) / f).clamp(min=0.0) ** 2).float()

"""Masks made from masks and from pictures. Values are 0..1, and 1 means "change this"; nothing given is written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..latents.batches import fit_batch
from ..names import ChannelName, MaskOperation, unknown_name
from ..types import Image, Mask
from .sizes import Size, cut


def solid_mask(value: float, *, width: int, height: int) -> Mask:
    """Returns a mask (1, height, width) of one value."""
    return Mask(torch.full((1, height, width), value, dtype=torch.float32))


def mask_of_channel(image: Image, channel: ChannelName) -> Mask:
    """Returns one channel of the pictures as masks; 1 in "alpha" is opaque. Raises ValueError for alpha where there is none."""
    index = ("red", "green", "blue", "alpha").index(channel)
    if index >= image.pixels.shape[-1]:
        raise ValueError(f"the picture has {image.pixels.shape[-1]} channels and no {channel}; choose a colour.")
    return Mask(image.pixels[..., index])


def mask_picture(mask: Mask) -> Image:
    """Returns the masks as pictures: black is 0, white is 1."""
    return Image(mask.values.unsqueeze(-1).expand(-1, -1, -1, 3))


def invert_mask(mask: Mask) -> Mask:
    """Returns 1 - mask."""
    return Mask(1.0 - mask.values)


def threshold_mask(mask: Mask, *, value: float) -> Mask:
    """Returns 1 where the mask is above `value` and 0 elsewhere."""
    return Mask((mask.values > value).float())


def crop_mask(mask: Mask, *, x: int, y: int, width: int, height: int) -> Mask:
    """Returns the rectangle of the mask that starts at (x, y), cut where it leaves the mask; never empty."""
    h, w = mask.values.shape[1:]
    kept = cut(Size(w, h), x=x, y=y, width=width, height=height)
    return Mask(mask.values[:, kept.rows, kept.columns])


def grow_mask(mask: Mask, *, pixels: int, tapered_corners: bool = True) -> Mask:
    """Returns the mask grown by `pixels` in each direction, or shrunk if negative.

    A pixel takes the largest (smallest) value around it, |pixels| times. With tapered corners its diagonal neighbours
    do not count, so a point grows to a diamond instead of a square. Grey values keep their level.
    """
    footprint = ndimage.generate_binary_structure(2, 1 if tapered_corners else 2)
    step = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    grown = []
    for values in mask.values.cpu().numpy():
        for _ in range(abs(pixels)):
            values = step(values, footprint=footprint)
        grown.append(torch.from_numpy(values))
    return Mask(torch.stack(grown))


def feather_mask(mask: Mask, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Mask:
    """Returns the mask faded towards its sides: the k-th of n lines is scaled by k/n.

    On the right and at the bottom it is as in ComfyUI 0.8.0 (behaviour), where counting back from -0 scales the first
    column (row) by 1/n in place of the last one, and the last but one by 2/n. Saved graphs depend on it.
    """
    values = mask.values.clone()
    height, width = values.shape[1:]
    for sides, length, dimension, direction in (
        (left, width, 2, 1),
        (right, width, 2, -1),
        (top, height, 1, 1),
        (bottom, height, 1, -1),
    ):
        lines = min(sides, length)
        for k in range(lines):
            values.select(dimension, direction * k).mul_((k + 1) / lines)
    return Mask(values)


def fade_mask(mask: Mask, *, pixels: int) -> Mask:
    """Returns the mask with a soft border around it: `pixels` further out than where it is above 1/2, it has come to 0.

    Inside it stays what it is. Distances are straight ones, between the centres of pixels.
    """
    if pixels == 0:
        return mask
    faded = []
    for values in mask.values.cpu().numpy():
        covered = values > 0.5
        distances = ndimage.distance_transform_edt(~covered) if covered.any() else np.full(values.shape, np.inf)
        faded.append(torch.from_numpy((1.0 - distances / pixels).clip(0.0, 1.0).astype(np.float32)))
    return Mask(torch.maximum(mask.values, torch.stack(faded)))


def composite_mask(destination: Mask, source: Mask, *, x: int, y: int, operation: MaskOperation) -> Mask:
    """Returns `destination` combined with `source` laid at (x, y), where they overlap; clamped to 0..1.

    "and", "or" and "xor" see rounded values. The source is repeated, or cut, to the destination's batch.
    """
    combine = _OPERATIONS.get(operation)
    if combine is None:
        raise unknown_name("mask operation", operation, get_args(MaskOperation))
    values = destination.values.clone()
    height, width = source.values.shape[1:]
    below = values[:, max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    above = fit_batch(source.values, len(values))[:, max(0, -y) :, max(0, -x) :]
    above = above[:, : below.shape[1], : below.shape[2]]
    below.copy_(combine(below, above))
    return Mask(values.clamp(0.0, 1.0))


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "and": lambda a, b: (a.round().bool() & b.round().bool()).float(),
    "or": lambda a, b: (a.round().bool() | b.round().bool()).float(),
    "xor": lambda a, b: (a.round().bool() ^ b.round().bool()).float(),
}

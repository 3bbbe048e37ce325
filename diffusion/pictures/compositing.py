"""Pictures and latents laid over one another, as in ComfyUI 0.8.0 (behaviour)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..latents.batches import fit_batch
from ..latents.tiling import edge_ramp
from ..types import Image, Latent, Mask
from .masks import fade_mask
from .resize import resize


def composite_image(
    destination: Image,
    source: Image,
    *,
    x: int,
    y: int,
    mask: Mask | None = None,
    resize_source: bool = False,
    feather: int = 0,
) -> Image:
    """Returns `destination` with `source` laid at (x, y), in pixels; what sticks out is cut.

    mask: where the source covers, stretched to its size; everywhere if None. resize_source stretches the source to the
    destination. The source's alpha is dropped for an opaque destination; a source without alpha is opaque. feather: over how
    many pixels of the mask the source fades out around it.
    """
    mask = None if mask is None else fade_mask(mask, pixels=feather)
    channels = destination.pixels.shape[-1]
    pixels = source.pixels[..., :channels]
    if channels > pixels.shape[-1]:
        pixels = pad(pixels, (0, channels - pixels.shape[-1]), value=1.0)
    composite = _composite(
        destination.pixels.movedim(-1, 1), pixels.movedim(-1, 1), x=x, y=y, mask=mask, resize_source=resize_source
    )
    return Image(composite.movedim(1, -1))


def composite_latent(
    destination: Latent, source: Latent, *, x: int, y: int, mask: Mask | None = None, resize_source: bool = False
) -> Latent:
    """Returns `destination` with `source` laid at (x, y), in latent cells, as `composite_image` does with pictures."""
    samples = _composite(destination.samples, source.samples, x=x, y=y, mask=mask, resize_source=resize_source)
    return replace(destination, samples=samples)


def paste_latent(destination: Latent, source: Latent, *, x: int, y: int, feather: int = 0) -> Latent:
    """Returns `destination` with `source` laid at (x, y) >= 0; all in latent cells. What sticks out is cut.

    feather: over how many cells the source fades in, on those of its edges that are not the destination's.
    """
    height, width = destination.samples.shape[2:]
    if x >= width or y >= height:
        return destination
    pasted = source.samples[:, :, : max(0, height - y), : max(0, width - x)]
    h, w = pasted.shape[2:]
    rows = edge_ramp(h, feather, at_start=y > 0, at_end=y + h < height)
    columns = edge_ramp(w, feather, at_start=x > 0, at_end=x + w < width)
    weights = (rows.unsqueeze(-1) * columns).unsqueeze(0)
    samples = _composite(destination.samples, pasted, x=x, y=y, mask=Mask(weights), resize_source=False)
    return replace(destination, samples=samples)


def _composite(
    destination: Tensor, source: Tensor, *, x: int, y: int, mask: Mask | None, resize_source: bool
) -> Tensor:
    """(B, C, H, W) over (B, C, H, W): m source + (1 - m) destination where they overlap."""
    if source.shape[1] != destination.shape[1]:
        raise ValueError(f"the source has {source.shape[1]} channels and the destination {destination.shape[1]}.")
    height, width = destination.shape[2:]
    if resize_source:
        source = resize(source, width=width, height=height, method="bilinear")
    source = fit_batch(source, len(destination))
    m = torch.ones(1, 1, *source.shape[2:]) if mask is None else mask.values.unsqueeze(1)
    m = fit_batch(interpolate(m, size=source.shape[2:], mode="bilinear"), len(destination))
    rows = slice(max(0, y), max(0, min(height, y + source.shape[2])))
    columns = slice(max(0, x), max(0, min(width, x + source.shape[3])))
    seen = (..., slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))
    composite = destination.clone()
    if rows.start < rows.stop and columns.start < columns.stop:
        covered = (..., rows, columns)
        composite[covered] = m[seen] * source[seen] + (1.0 - m[seen]) * destination[covered]
    return composite

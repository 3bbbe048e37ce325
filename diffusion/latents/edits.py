"""Latents cut, turned, joined and mixed. As in ComfyUI 0.8.0 (behaviour).

What turns or cuts a latent does the same to its noise mask. Sizes and places are in cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..names import FlipDirection, LatentBlendMode, ResizeMethod
from ..pictures.resize import resize
from ..pictures.sizes import Size, cut
from ..types import Latent
from .batches import fit_batch

NO_LENGTH = 1e-37  # instead of 0, where a cell is empty and has no direction


def crop_latent(latent: Latent, *, x: int, y: int, width: int, height: int, least: int = 1) -> Latent:
    """Returns a rectangle of the latents; what would lie outside is left off, but `least` cells a side always stay."""
    h, w = latent.samples.shape[-2:]
    left, top, size = cut(Size(w, h), x=x, y=y, width=width, height=height, least=least)

    def crop(t: Tensor) -> Tensor:
        across, down = t.shape[-1] // w, t.shape[-2] // h
        return t[..., top * down : (top + size.height) * down, left * across : (left + size.width) * across]

    mask = latent.noise_mask
    if mask is not None and (mask.shape[-2] % h or mask.shape[-1] % w):
        mask = resize(mask, width=w, height=h, method="bilinear")  # as sampling would fit it to the whole latent
    return replace(latent, samples=crop(latent.samples), noise_mask=None if mask is None else crop(mask))


def flip_latent(latent: Latent, direction: FlipDirection) -> Latent:
    """Returns the latents mirrored: left and right swapped ("horizontal"), or top and bottom ("vertical")."""
    side = -1 if direction == "horizontal" else -2
    return _moved(latent, lambda t: t.flip(side))


def rotate_latent(latent: Latent, degrees: int) -> Latent:
    """Returns the latents turned clockwise. Raises ValueError for degrees that are no quarters of a circle."""
    quarters, rest = divmod(degrees, 90)
    if rest:
        raise ValueError(f"cannot turn a latent by {degrees} degrees; give a multiple of 90.")
    return _moved(latent, lambda t: t.rot90(quarters, dims=(-1, -2)))


def join_latents(first: Latent, second: Latent) -> Latent:
    """Returns one batch of both: the second ones cut and resized to the first ones' size; each keeps the noise it has.

    So two latents that were batches of their own begin with the same draws. Where one alone has a noise mask, the other may
    change everywhere. Raises ValueError for latents of two formats.
    """
    joined = torch.cat([first.samples, _fitted(second, first, "bilinear")])
    draws = [each.batch_index or tuple(range(len(each.samples))) for each in (first, second)]
    return replace(first, samples=joined, noise_mask=_joined_masks(first, second), batch_index=draws[0] + draws[1])


def blend_latents(latent: Latent, other: Latent, *, ratio: float, mode: LatentBlendMode = "values") -> Latent:
    """Returns the latents mixed with others: ratio 1 is the first alone, 0 the second.

    mode: "values" is the mean of the numbers; "directions" mixes directions and lengths of the channel vectors apart, so
    that no contrast is lost where they point elsewhere. The others are cut and resized to the latents' size, and repeated over
    their batch. Raises ValueError for latents of two formats.
    """
    if mode == "values":
        second = _fitted_batch(other, latent, "bicubic")
        return replace(latent, samples=latent.samples * ratio + second * (1.0 - ratio))
    second = _fitted_batch(other, latent, "bilinear")
    lengths = [each.norm(dim=1, keepdim=True) for each in (latent.samples, second)]
    direction = _unit(_unit(latent.samples) * ratio + _unit(second) * (1.0 - ratio))
    return replace(latent, samples=direction * (lengths[0] * ratio + lengths[1] * (1.0 - ratio)))


def add_latents(latent: Latent, other: Latent, *, factor: float = 1.0) -> Latent:
    """Returns the latents plus `factor` times others, which are cut and resized to them, and repeated over their batch.

    Raises ValueError for latents of two formats.
    """
    return replace(latent, samples=latent.samples + _fitted_batch(other, latent, "bilinear") * factor)


def multiply_latent(latent: Latent, factor: float) -> Latent:
    """Returns the latents times a factor."""
    return replace(latent, samples=latent.samples * factor)


def _moved(latent: Latent, move: Callable[[Tensor], Tensor]) -> Latent:
    mask = latent.noise_mask
    return replace(latent, samples=move(latent.samples), noise_mask=None if mask is None else move(mask))


def _fitted(other: Latent, latent: Latent, method: ResizeMethod) -> Tensor:
    """Returns the samples of others, (B', C, h, w), at the size of latents (B, C, h, w); empty ones fit any format."""
    wanted = latent.samples.shape[1:]
    if other.samples.shape[1:] == wanted:
        return other.samples
    if not other.samples.any():
        return other.samples.new_zeros(len(other.samples), *wanted)
    if other.samples.shape[1] != wanted[0]:
        raise ValueError(
            f"a latent with {other.samples.shape[1]} channels does not go with one with {wanted[0]}; encode both pictures with "
            "the autoencoder of one family."
        )
    return resize(other.samples, width=wanted[2], height=wanted[1], method=method, crop="center")


def _fitted_batch(other: Latent, latent: Latent, method: ResizeMethod) -> Tensor:
    return fit_batch(_fitted(other, latent, method), len(latent.samples))


def _joined_masks(first: Latent, second: Latent) -> Tensor | None:
    """Returns the noise masks of both, an item each, at the size of the first latents' cells where theirs differ."""
    if first.noise_mask is None and second.noise_mask is None:
        return None
    h, w = first.samples.shape[-2:]
    masks = [
        each.samples.new_ones(len(each.samples), 1, h, w)
        if each.noise_mask is None
        else fit_batch(each.noise_mask, len(each.samples))
        for each in (first, second)
    ]
    if first.samples.shape[-2:] != second.samples.shape[-2:] or masks[0].shape[-2:] != masks[1].shape[-2:]:
        masks = [resize(mask, width=w, height=h, method="bilinear", crop="center") for mask in masks]
    return torch.cat(masks)


def _unit(x: Tensor) -> Tensor:
    """Returns x, (B, C, h, w), with channel vectors of length 1, or 0 where there is no direction."""
    lengths: Tensor = x.norm(dim=1, keepdim=True).clamp(min=NO_LENGTH)
    return x / lengths

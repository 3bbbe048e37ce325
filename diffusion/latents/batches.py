"""Latents by themselves: empty ones, their batches and masks, and the way into and out of a network's units.

A batch remembers which draw of the noise each item gets (`Latent.batch_index`), so that an item taken out of a batch
starts from the noise it had there. Knows no network and no autoencoder.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ..families.specs import LatentFormat
from ..names import ResizeMethod
from ..networks.budget import free_bytes, gibibytes
from ..networks.exhaustion import OutOfMemoryError
from ..pictures.resize import resize_latent
from ..types import Latent, Mask


def empty_latent(*, width: int, height: int, batch_size: int = 1, channels: int = 4, downscale: int = 8) -> Latent:
    """Returns zeros for pictures of `width` x `height` pixels; sides round down to whole cells of `downscale` pixels.

    Sampling fits an empty latent to its model; see `fit_empty`. Raises ValueError if a side is under one cell, and
    OutOfMemoryError for more than there is memory for.
    """
    if min(width, height) < downscale or batch_size < 1:
        raise ValueError(
            f"cannot make {batch_size} latents of {width}x{height} pixels; "
            f"give at least 1 of at least {downscale}x{downscale}."
        )
    shape = (batch_size, channels, height // downscale, width // downscale)
    size, free = prod(shape) * torch.float32.itemsize, free_bytes(torch.device("cpu"))
    if size > free:
        raise OutOfMemoryError(
            f"{batch_size} latents of {width}x{height} pixels take {gibibytes(size)} of memory, and {gibibytes(free)} are "
            "free. Make fewer, or smaller ones."
        )
    return Latent(torch.zeros(shape), cell=downscale)


def scale_latent(latent: Latent, factor: float, *, method: ResizeMethod = "bislerp") -> Latent:
    """Returns the latents with both sides `factor` times as long, rounded to whole cells."""
    h, w = latent.samples.shape[-2:]
    return resize_latent(latent, width=max(1, round(w * factor)), height=max(1, round(h * factor)), method=method)


def set_noise_mask(latent: Latent, mask: Mask) -> Latent:
    """Returns the latents with `mask` saying where sampling may change them; sampling fits it to the latent's size."""
    return replace(latent, noise_mask=mask.values.unsqueeze(1))


def repeat_latent(latent: Latent, amount: int) -> Latent:
    """Returns the whole batch `amount` times over. Every copy gets noise of its own.

    Without a batch_index the copies are simply further items; with one, copy i takes the draws i * (max - min + 1) on.
    """
    if amount < 1:
        raise ValueError(f"cannot repeat a latent {amount} times; give 1 or more.")
    index = latent.batch_index
    if index is not None:
        offset = max(index) - min(index) + 1
        index = tuple(item + copy * offset for copy in range(amount) for item in index)
    mask = latent.noise_mask
    if mask is not None and len(mask) > 1:
        mask = fit_batch(mask, len(latent.samples)).repeat(amount, 1, 1, 1)
    return replace(latent, samples=latent.samples.repeat(amount, 1, 1, 1), noise_mask=mask, batch_index=index)


def latent_from_batch(latent: Latent, index: int, length: int = 1) -> Latent:
    """Returns `length` items from `index` on, both limited to the batch, with the noise that they have there."""
    if index < 0 or length < 1:
        raise ValueError(f"cannot take {length} latents from number {index} on; give an index from 0, a length from 1.")
    batch = len(latent.samples)
    start = min(index, batch - 1)
    items = slice(start, min(start + length, batch))
    mask = latent.noise_mask
    if mask is not None and len(mask) > 1:
        mask = fit_batch(mask, batch)[items]
    draws = tuple(range(batch)) if latent.batch_index is None else latent.batch_index
    return replace(latent, samples=latent.samples[items], noise_mask=mask, batch_index=draws[items])


def fit_empty(latent: Latent, latent_format: LatentFormat) -> Tensor:
    """Returns the samples, (B, C, h, w), of a latent; an empty one has the channels of the format, and cells of its size.

    So one empty latent serves every family. Raises ValueError for a latent that isn't empty and has other channels.
    """
    samples, wanted = latent.samples, latent_format
    is_empty = not samples.any()
    if samples.shape[1] != wanted.channels and not is_empty:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels, but the model denoises {wanted.channels}; "
            "encode the picture with the autoencoder of the model's own family."
        )
    h, w = samples.shape[-2:]
    if is_empty and latent.cell is not None:
        h, w = (max(1, side * latent.cell // wanted.downscale) for side in (h, w))
    return (
        samples
        if samples.shape[1:] == (wanted.channels, h, w)
        else samples.new_zeros(len(samples), wanted.channels, h, w)
    )


def fit_batch(x: Tensor, batch: int) -> Tensor:
    """Returns x, (B, ...), cut or repeated to `batch` items."""
    if len(x) == batch:
        return x
    return x.repeat(-(-batch // len(x)), *[1] * (x.ndim - 1))[:batch]


def to_model_space(z: Tensor, latent_format: LatentFormat) -> Tensor:
    """Returns z, in VAE space, in the units that the network of this format works in."""
    if latent_format.means:
        mean, std = _by_channel(latent_format, z)
        return (z - mean) * (latent_format.scale / std)
    return (z - latent_format.shift) * latent_format.scale


def to_vae_space(x: Tensor, latent_format: LatentFormat) -> Tensor:
    """Returns x, in the network's units, in VAE space. It divides: a reciprocal would round otherwise."""
    if latent_format.means:
        mean, std = _by_channel(latent_format, x)
        return x * (std / latent_format.scale) + mean
    return x / latent_format.scale + latent_format.shift


def _by_channel(latent_format: LatentFormat, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each channel, (C, 1, 1)."""
    return x.new_tensor(latent_format.means).view(-1, 1, 1), x.new_tensor(latent_format.stds).view(-1, 1, 1)

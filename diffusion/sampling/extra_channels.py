"""The channels that follow those of the latent where a network takes more: a mask, or a picture to go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..families.specs import ExtraChannels, ModelSpec
from ..latents.batches import fit_batch, to_model_space
from ..pictures.resize import resize
from ..pictures.sizes import CELL
from ..types import Condition
from .enlarging import small_picture

LEAST_DEPTH = 1e-6  # instead of 0, where everything is equally near
BLANK_PICTURE = (0.8223, -0.6876, 0.6364, 0.1380)  # mid-grey in SD1's scaled latents; as in ComfyUI 0.8.0 (behaviour)


class Given(NamedTuple):
    """What a run gives every condition. latent: (B, C, h, w) in scaled-latent units; noise_mask: like it, or None."""

    spec: ModelSpec
    latent: Tensor
    noise_mask: Tensor | None
    seed: int


def extra_channels(
    condition: Condition, *, spec: ModelSpec, latent: Tensor, noise_mask: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Returns (B, k, h, w), what a network of `spec` is given beside a latent; for the arguments see `Given`."""
    channels = _MAKERS[spec.extra](condition, Given(spec, latent, noise_mask, seed))
    wanted = spec.network.in_channels - spec.latent.channels
    if channels.shape[1] != wanted:
        raise ValueError(
            f"a {spec.family} network takes {wanted} channels beside the latent's, but the condition's picture and mask "
            f"make {channels.shape[1]}; encode the picture with the autoencoder of the model's own family."
        )
    return channels


def inpaint_channels(condition: Condition, given: Given) -> Tensor:
    """Returns (B, 1 + C, h, w): the mask, 1 where the picture is to be made, then the masked picture's scaled latent.

    The condition's own mask and picture come before the run's noise mask and latent. With no mask at all everything is
    to be made, and the picture is blank. As in ComfyUI 0.8.0 (behaviour).
    """
    latent = given.latent
    b, _, h, w = latent.shape
    mask = _mask_of(condition, given)
    if mask is None:
        blank = latent.new_tensor(BLANK_PICTURE).reshape(1, -1, 1, 1).expand(b, -1, h, w)
        return torch.cat([latent.new_ones(b, 1, h, w), blank], dim=1)
    mask = _fitted(mask[:, :1].to(latent), latent).round()
    picture = latent
    if condition.concat_latent is not None:
        picture = _fitted(to_model_space(condition.concat_latent.to(latent), given.spec.latent), latent)
    return torch.cat([mask, picture], dim=1)


def picture_channels(condition: Condition, given: Given) -> Tensor:
    """Returns the latent of a picture to go by, in VAE space, zeros where the condition has none.

    Brooks et al. 2022, arXiv:2211.09800 (InstructPix2Pix).
    """
    if condition.concat_latent is None:
        return torch.zeros_like(given.latent)
    return _fitted(condition.concat_latent.to(given.latent), given.latent)


def scaled_picture_channels(condition: Condition, given: Given) -> Tensor:
    """Returns the latent of a picture to go by, in the network's own units; zeros before scaling where there is none."""
    latent = given.latent
    picture = torch.zeros_like(latent) if condition.concat_latent is None else condition.concat_latent.to(latent)
    return _fitted(to_model_space(picture, given.spec.latent), latent)


def picture_and_mask_cells(condition: Condition, given: Given) -> Tensor:
    """Returns (B, C + 64, h, w): the masked picture's scaled latent, then the mask at 8 times its size, as in FLUX fill.

    A cell's 8x8 pixels are its channels, row by row, 1 where the picture is to be made; everywhere, where there is no mask.
    """
    latent = given.latent
    b, _, h, w = latent.shape
    mask = _mask_of(condition, given)
    mask = latent.new_ones(1, 1, h, w) if mask is None else mask.to(latent).mean(dim=1, keepdim=True)
    mask = resize(mask, width=CELL * w, height=CELL * h, method="bilinear", crop="center")
    cells = fit_batch(functional.pixel_unshuffle(mask, CELL), b)
    return torch.cat([scaled_picture_channels(condition, given), cells], dim=1)


def picture_and_mask(condition: Condition, given: Given) -> Tensor:
    """Returns (B, C + 1, h, w): the masked picture's scaled latent, then the mask, -1 where it stays and 1 where it is made.

    As in latent diffusion's script for inpainting: of a cell's pixels in the mask the first counts. Rombach et al. 2022,
    arXiv:2112.10752, section 4.5.
    """
    latent = given.latent
    b, _, h, w = latent.shape
    mask = _mask_of(condition, given)
    mask = latent.new_ones(1, 1, h, w) if mask is None else mask[:, :1].to(latent).round()
    mask = fit_batch(functional.interpolate(mask, size=(h, w)), b) * 2.0 - 1.0
    return torch.cat([scaled_picture_channels(condition, given), mask], dim=1)


def depth_channel(condition: Condition, given: Given) -> Tensor:
    """Returns (B, 1, h, w), how near things are, from -1, the furthest, to 1; zeros where the condition does not say it.

    As in diffusers' StableDiffusionDepth2ImgPipeline (behaviour).
    """
    latent = given.latent
    b, _, h, w = latent.shape
    if condition.depth is None:
        return latent.new_zeros(b, 1, h, w)
    depth = functional.interpolate(condition.depth.to(latent), size=(h, w), mode="bicubic")
    low, high = depth.amin(dim=(1, 2, 3), keepdim=True), depth.amax(dim=(1, 2, 3), keepdim=True)
    return fit_batch(2.0 * (depth - low) / (high - low).clamp(min=LEAST_DEPTH) - 1.0, b)


def small_picture_channels(condition: Condition, given: Given) -> Tensor:
    """Returns (B, 3, h, w), the pixels of the picture that is enlarged; see `enlarging`."""
    return small_picture(condition, given.spec, given.latent, seed=given.seed)


def segment_channels(condition: Condition, given: Given) -> Tensor:
    """Returns (B, C, h, w), what the network is shown of the picture's classes; zeros where nothing is said of them."""
    if condition.segments is None:
        return torch.zeros_like(given.latent)
    return _fitted(condition.segments.to(given.latent), given.latent)


def _mask_of(condition: Condition, given: Given) -> Tensor | None:
    """The condition's own mask, or else that of the run."""
    return given.noise_mask if condition.concat_mask is None else condition.concat_mask


def _fitted(x: Tensor, latent: Tensor) -> Tensor:
    b, _, h, w = latent.shape
    if x.shape[-2:] != (h, w):
        x = resize(x, width=w, height=h, method="bilinear", crop="center")
    return fit_batch(x, b)


_MAKERS: Mapping[ExtraChannels, Callable[[Condition, Given], Tensor]] = {
    "mask_and_picture": inpaint_channels,
    "picture": picture_channels,
    "scaled_picture": scaled_picture_channels,
    "picture_and_mask_cells": picture_and_mask_cells,
    "picture_and_mask": picture_and_mask,
    "depth": depth_channel,
    "small_picture": small_picture_channels,
    "segments": segment_channels,
}

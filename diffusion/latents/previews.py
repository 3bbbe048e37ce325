"""A quick look at a latent that is still being denoised: each cell becomes one pixel, by a linear map of its channels.

It costs microseconds and needs no autoencoder, so a run may show one at every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..families.specs import Colours, LatentFormat


def preview_picture(x: Tensor, latent_format: LatentFormat) -> Tensor:
    """Returns uint8 (h, w, 3) on the CPU, a rough picture of one latent. x: (C, h, w) in scaled-latent units.

    Where the format knows no colours they are arbitrary, but shapes can be told.
    """
    colours = x.new_tensor(latent_format.colours or _spread(latent_format.channels))
    rgb = torch.einsum("chw,cr->hwr", x, colours[: len(x)]) + colours[len(x) :].sum(0)
    return ((rgb + 1.0) * 127.5).nan_to_num().clamp(0.0, 255.0).to(torch.uint8).cpu()


def _spread(channels: int) -> Colours:
    """Three directions at right angles (the first cosines over the channels), for latents of about unit std."""
    return tuple((_cosine(0, c, channels), _cosine(1, c, channels), _cosine(2, c, channels)) for c in range(channels))


def _cosine(frequency: int, channel: int, channels: int) -> float:
    return 0.5 * math.cos(math.pi * frequency * (channel + 0.5) / channels) / math.sqrt(channels)

"""A quick look at a latent that is still being denoised: each cell becomes one pixel, by a linear map of its channels.

It costs microseconds and needs no autoencoder, so a run may show one at every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .families import SD_LATENT, SDXL_LATENT, LatentFormat

Factors = tuple[tuple[float, float, float], ...]

# Rows: what a channel of the scaled latent adds to R, G and B in -1..1. Least-squares fits to decoded pictures by
# @keturn, @erucipe, @torridgristle (SD 1.5) and @StAlKeR7779 (SDXL), as published with InvokeAI.
_KNOWN: dict[LatentFormat, Factors] = {
    SD_LATENT: (
        (0.3444, 0.1385, 0.0670),
        (0.1247, 0.4027, 0.1494),
        (-0.3192, 0.2513, 0.2103),
        (-0.1307, -0.1874, -0.7445),
    ),
    SDXL_LATENT: (
        (0.3816, 0.4930, 0.5320),
        (-0.3753, 0.1631, 0.1739),
        (0.1770, 0.3588, -0.2048),
        (-0.4350, -0.2644, -0.4289),
    ),
}


def preview_picture(x: Tensor, latent_format: LatentFormat) -> Tensor:
    """Returns uint8 (h, w, 3) on the CPU, a rough picture of one latent. x: (C, h, w) in scaled-latent units.

    The colours of a format without known factors are arbitrary, but shapes can be told.
    """
    factors = x.new_tensor(_KNOWN.get(latent_format) or _spread(latent_format.channels))
    rgb = torch.einsum("chw,cr->hwr", x, factors)
    return ((rgb + 1.0) * 127.5).nan_to_num().clamp(0.0, 255.0).to(torch.uint8).cpu()


def _spread(channels: int) -> Factors:
    """Three directions at right angles (the first cosines over the channels), for latents of about unit std."""
    return tuple((_cosine(0, c, channels), _cosine(1, c, channels), _cosine(2, c, channels)) for c in range(channels))


def _cosine(frequency: int, channel: int, channels: int) -> float:
    return 0.5 * math.cos(math.pi * frequency * (channel + 0.5) / channels) / math.sqrt(channels)

"""A small picture as a network is shown it that enlarges it, with noise mixed in where the network is told how much.

Ho et al. 2021, arXiv:2106.15282, section 4.2 (conditioning augmentation), as Stable Diffusion's x4 upscaler has it; results as
in ComfyUI 0.8.0 (behaviour). Networks of Rombach et al. 2022, arXiv:2112.10752, section 4.4, are shown the picture alone.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ..families.specs import ModelSpec
from ..latents.batches import fit_batch
from ..pictures.resize import resize
from ..types import Condition
from .noise_levels import NoiseTable, noise_table
from .vectors import SEED_OFFSET

NOISIEST = 350  # x4-upscaling.yaml, max_noise_level: of a picture, of the 1000 that the network knows
FIRST_BETA, LAST_BETA, STEPS = 0.0001, 0.02, 1000  # x4-upscaling.yaml, low_scale_config: linear_start, linear_end


def small_picture(condition: Condition, spec: ModelSpec, latent: Tensor, *, seed: int) -> Tensor:
    """Returns (B, 3, h, w) in -1..1: the picture to enlarge, a pixel a cell, with its noise; zeros where there is none.

    latent: (B, C, h, w). seed: of the run. Raises ValueError for noise that the network can't be told of.
    """
    b, _, h, w = latent.shape
    if condition.small is None:
        return latent.new_zeros(b, spec.network.in_channels - spec.latent.channels, h, w)
    x = condition.small.pixels.movedim(-1, 1).to(latent) * 2.0 - 1.0
    x = resize(x, width=w, height=h, method="bilinear", crop="center")
    if condition.small.noise:
        if not spec.knows_noise:
            raise ValueError(f"a {spec.family} network knows no noise in the picture that it enlarges; set noise to 0.")
        draws = torch.Generator().manual_seed((seed - SEED_OFFSET) % (1 << 64))
        signal, spread = _noise_table()[picture_level(condition)]
        x = signal * x + spread * torch.randn(x.shape, generator=draws).to(x)
    return fit_batch(x, b)


def picture_level(condition: Condition) -> int:
    """Returns how noisy a condition's small picture is, as the network is told it."""
    return 0 if condition.small is None else round(NOISIEST * condition.small.noise)


@cache
def _noise_table() -> NoiseTable:
    first, last = math.sqrt(FIRST_BETA), math.sqrt(LAST_BETA)
    return noise_table((first + (last - first) * n / (STEPS - 1)) ** 2 for n in range(STEPS))

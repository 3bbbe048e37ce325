"""Sampling a part of a latent: the network sees the original, noised to the current level, wherever the mask keeps it.

Only what the network sees and answers is replaced, never the sampler's own x, so every sampler can be masked and a
soft mask blends. As in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import Query, Steps, advance
from .sampling_space import SamplingSpace


def fit_mask(mask: Tensor, latent: Tensor) -> Tensor:
    """Returns a noise mask (B', 1, H, W) in the shape of `latent`, (B, C, h, w).

    Bilinear and unrounded; the batch is cut or repeated to B.
    """
    b, c, h, w = latent.shape
    fitted = torch.nn.functional.interpolate(mask, size=(h, w), mode="bilinear")
    return fitted.repeat(-(-b // len(fitted)), c, 1, 1)[:b]


def masked(steps: Steps, *, mask: Tensor, latent: Tensor, noise: Tensor, space: SamplingSpace) -> Steps:
    """Relays a sampler so that it changes `latent` only where `mask` is above 0.

    mask: (B, C, h, w), 1 changes and 0 keeps (see `fit_mask`). latent: what is kept, in scaled-latent units.
    noise: unit noise like latent, one draw for the whole run: the initial noise, or the sampler's own choice
    (`Sampler.fresh_inpaint_noise`). The negative estimate stays what it is: it only steers.
    """
    kept = latent * (1.0 - mask)
    state = advance(steps)
    while isinstance(state, Query):
        noised = space.noise_scaling(state.sigma, noise, latent)
        answer = yield state._replace(x=state.x * mask + noised * (1.0 - mask))
        state = advance(steps, answer._replace(denoised=answer.denoised * mask + kept))
    return state

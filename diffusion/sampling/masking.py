"""Sampling a part of a latent: the network sees the original, noised to the current level, wherever the mask keeps it.

Only what the network sees and answers is replaced, never the sampler's own x, so every sampler can be masked and a
soft mask blends. As in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..levels.space import SamplingSpace
from ..samplers.problem import Query, Steps, advance


def fit_mask(mask: Tensor, latent: Tensor) -> Tensor:
    """Returns a noise mask (B', 1, H, W) in the shape of `latent`, (B, C, h, w).

    Bilinear and unrounded; the batch is cut or repeated to B.
    """
    b, c, h, w = latent.shape
    fitted = torch.nn.functional.interpolate(mask, size=(h, w), mode="bilinear")
    return fitted.repeat(-(-b // len(fitted)), c, 1, 1)[:b]


def masked(
    steps: Steps,
    *,
    mask: Tensor,
    latent: Tensor,
    noise: Tensor,
    space: SamplingSpace,
    mask_at: Callable[[Tensor], Tensor] | None = None,
) -> Steps:
    """Relays a sampler so that it changes `latent` only where `mask` is above 0.

    mask: (B, C, h, w), 1 changes and 0 keeps (see `fit_mask`). latent: what is kept, in scaled-latent units.
    noise: unit noise like latent, one draw for the whole run: the initial noise, or the sampler's own choice
    (`Sampler.fresh_inpaint_noise`). mask_at: the mask at a noise level, where it is another at each. The negative estimate
    stays what it is: it only steers.
    """
    state = advance(steps)
    while isinstance(state, Query):
        here = mask if mask_at is None else mask_at(state.sigma)
        noised = space.noise_scaling(state.sigma, noise, latent)
        answer = yield state._replace(x=state.x * here + noised * (1.0 - here))
        state = advance(steps, answer._replace(denoised=answer.denoised * here + latent * (1.0 - here)))
    return state


def gradual(
    mask: Tensor, *, space: SamplingSpace, sigmas: Tensor, strictness: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """Returns the mask at a noise level: a cell changes once its value reaches the part of the run's time that is left.

    Levin and Fried 2023, arXiv:2306.00950 (differential diffusion). mask: (B, C, h, w) in 0..1, not the same everywhere.
    sigmas: (n + 1,), the run's levels. strictness: below 1, that much of the change, and the rest by the soft mask.
    """
    first, last = sigmas[0], sigmas[-1].clamp(min=space.sigma_min)
    time_first, time_last = space.timestep(first), space.timestep(last)

    def mask_at(sigma: Tensor) -> Tensor:
        left = (space.timestep(sigma) - time_last) / (time_first - time_last)
        changing = (mask >= left).to(mask)
        return changing if strictness == 1.0 else strictness * changing + (1.0 - strictness) * mask

    return mask_at

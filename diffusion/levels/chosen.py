"""Schedules that people choose for themselves: between levels of their own, or from a table that was measured.

Each returns float32 (n + 1,) sigmas on the CPU, decreasing, ending in 0 unless its docstring says otherwise. Values as in
ComfyUI 0.8.0 (behaviour). Knows no sampler; what needs a model knows it as a `SamplingSpace`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..names import AlignedModel
from ..samplers import precise
from .limits import LARGEST_LOG, check_levels
from .space import SamplingSpace
from .space_spec import FLUX_PATCH

ALIGNED: dict[AlignedModel, tuple[float, ...]] = {
    "SD1": (
        *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
        *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    ),
    "SDXL": (
        *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
        *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    ),
    "SVD": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Sabour et al. 2024, arXiv:2404.14507: the levels of ten steps that the paper found for each model."""

TURBO_STEPS = 10  # that a turbo model was distilled for: timesteps 999, 899, ... 99


def karras_levels(steps: int, *, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho). Karras et al. 2022, arXiv:2206.00364, eq. 5. Raises ValueError for a rho that is too small."""
    if math.log(max(sigma_max, 1)) / rho > LARGEST_LOG:
        raise ValueError(f"a rho of {rho:g} is too small for levels up to {sigma_max:g}; give a larger one.")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return ending_in_zero((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


def exponential_levels(steps: int, *, sigma_max: float, sigma_min: float) -> Tensor:
    """Even in ln sigma."""
    return ending_in_zero(precise.exp(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps)))


def polyexponential_levels(steps: int, *, sigma_max: float, sigma_min: float, rho: float = 1.0) -> Tensor:
    """Even in the rho-th root of the way down in ln sigma; a rho above 1 is denser at the low end."""
    way = torch.linspace(1, 0, steps) ** rho
    return ending_in_zero(precise.exp(way * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min)))


def laplace_levels(steps: int, *, sigma_max: float, sigma_min: float, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """Quantiles of a Laplace distribution of ln sigma around mu; `steps` levels, without a 0 after the last.

    Hang et al. 2024, arXiv:2407.03297.
    """
    quantile = torch.linspace(0, 1, steps)
    offset = 0.5 - quantile
    tail = precise.log(1 - 2 * offset.abs() + 1e-5)  # the summand keeps the ends finite
    return precise.exp(mu - beta * offset.sign() * tail).clamp(sigma_min, sigma_max)


def vp_levels(steps: int, *, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3) -> Tensor:
    """Even in the time of the variance-preserving SDE, from 1 to eps_s. Song et al. 2020, arXiv:2011.13456, eq. 32."""
    time = torch.linspace(1, eps_s, steps)
    return ending_in_zero(precise.sqrt(precise.expm1(beta_d * time**2 / 2 + beta_min * time)))


def aligned_levels(model: AlignedModel, steps: int, *, denoise: float = 1.0) -> Tensor:
    """The levels of `ALIGNED`, log-linearly in between for other numbers of steps. arXiv:2404.14507.

    denoise: below 1, the last round(steps * denoise) steps; empty for 0.
    """
    if denoise <= 0.0:
        return torch.empty(0)
    kept = round(steps * denoise) if denoise < 1.0 else steps
    levels = np.array(ALIGNED[model])
    if len(levels) != steps + 1:
        known, wanted = np.linspace(0, 1, len(levels)), np.linspace(0, 1, steps + 1)
        levels = np.exp(np.interp(wanted, known, np.log(levels)))
    sigmas = torch.tensor(levels[-(kept + 1) :], dtype=torch.float32)
    sigmas[-1] = 0
    return sigmas


def flux2_levels(steps: int, *, width: int, height: int) -> Tensor:
    """FLUX.2's levels for a picture of this size in pixels: even in time, its odds times e^shift.

    The shift is linear in the tokens of the picture, and for fewer than 4300 of them in the steps, too: fitted by its makers
    at 10 and at 200 steps, as in their own sampling code.
    """
    tokens = width * height / FLUX_PATCH**2
    at_200 = 0.00016927 * tokens + 0.45666666
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    shift = at_200 if tokens > 4300 else at_200 + (at_10 - at_200) * (200 - steps) / 190
    time = torch.linspace(1, 0, steps + 1)
    odds = math.exp(min(shift, LARGEST_LOG))
    return odds / (odds + (1 / time - 1))


def turbo_levels(space: SamplingSpace, steps: int, *, denoise: float = 1.0) -> Tensor:
    """The levels of a model that was distilled for few steps: every hundredth timestep, the first `steps` of them.

    Sauer et al. 2023, arXiv:2311.17042 (SD-Turbo). denoise: below 1 leaves out the noisiest.
    """
    times = torch.arange(TURBO_STEPS, 0, -1) * 100 - 1
    start = TURBO_STEPS - int(TURBO_STEPS * denoise)
    return ending_in_zero(space.sigma(times[start : start + steps]))


def ending_in_zero(sigmas: Tensor) -> Tensor:
    """Returns the levels with a 0 after them. Raises ValueError if nothing can be sampled at them."""
    levels = torch.cat([sigmas, sigmas.new_zeros(1)])
    check_levels(levels.tolist())
    return levels

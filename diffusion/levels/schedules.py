"""Which noise levels a run visits: schedules by name, and how KSampler cuts them.

A schedule is a function of (space, steps). It returns float32 (n + 1,) sigmas on the CPU, decreasing, from about the
space's sigma_max to 0; n is `steps` except where a docstring says otherwise. Values as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..names import SamplerName, ScheduleName, unknown_name
from ..samplers import precise
from ..samplers.catalogue import sampler_named
from .chosen import ending_in_zero, exponential_levels, karras_levels
from .limits import whole_steps
from .space import SamplingSpace

Schedule = Callable[[SamplingSpace, int], Tensor]
NEARLY_ZERO = 1e-5  # a model's lowest level below this already is the clean end: no 0 is appended
LINEAR_PART = 0.025  # of sigma_max: what linear_quadratic covers in its even steps


def simple(space: SamplingSpace, steps: int) -> Tensor:
    """Every (N / steps)-th of the model's N levels, from the top."""
    stride = len(space.sigmas) / steps
    return ending_in_zero(space.sigmas[[-(1 + int(i * stride)) for i in range(steps)]])


def sgm_uniform(space: SamplingSpace, steps: int) -> Tensor:
    """Evenly spaced timesteps, without the last, so that the final step is as long as the others."""
    return ending_in_zero(space.sigma(_timesteps(space, steps + 1)[:-1]))


def karras(space: SamplingSpace, steps: int) -> Tensor:
    """Even in sigma^(1/7). Karras et al. 2022, arXiv:2206.00364, eq. 5 with rho = 7."""
    return karras_levels(steps, sigma_max=space.sigma_max, sigma_min=space.sigma_min)


def exponential(space: SamplingSpace, steps: int) -> Tensor:
    """Even in ln sigma."""
    return exponential_levels(steps, sigma_max=space.sigma_max, sigma_min=space.sigma_min)


def ddim_uniform(space: SamplingSpace, steps: int) -> Tensor:
    """Every k-th of the model's N levels from the lowest but one, k = N // steps. Song et al. 2021, arXiv:2010.02502.

    Starts below sigma_max, and may have more than `steps` steps: 30 of 1000 levels give 31.
    """
    clean = space.sigmas[1].item() < NEARLY_ZERO
    stride = max(len(space.sigmas) // (steps + 1 if clean else steps), 1)
    sigmas = space.sigmas[1::stride].flip(0)
    return sigmas if clean else ending_in_zero(sigmas)


def beta(space: SamplingSpace, steps: int) -> Tensor:
    """The model's levels at quantiles of Beta(0.6, 0.6): dense at both ends. Lee et al. 2024, arXiv:2407.12173.

    Levels that coincide are visited once, so that many steps give fewer than `steps`.
    """
    return beta_levels(space, steps)


def beta_levels(space: SamplingSpace, steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """The same for any Beta(alpha, beta)."""
    from scipy.stats import beta as beta_distribution  # takes a second to import

    quantiles = beta_distribution.ppf(1.0 - np.arange(steps) / steps, alpha, beta)
    levels = np.rint(quantiles * (len(space.sigmas) - 1)).astype(int)
    return ending_in_zero(space.sigmas[list(dict.fromkeys(levels.tolist()))])


def normal(space: SamplingSpace, steps: int) -> Tensor:
    """Evenly spaced timesteps from the top level to the lowest."""
    if space.sigma(_timesteps(space, 2)).min() < NEARLY_ZERO:
        return space.sigma(_timesteps(space, steps + 1))
    return ending_in_zero(space.sigma(_timesteps(space, steps)))


def linear_quadratic(space: SamplingSpace, steps: int) -> Tensor:
    """Half of the steps evenly down to 0.975 of sigma_max, the rest on a parabola from there to 0. For video models.

    As in Genmo's Mochi, 2024, https://github.com/genmoai/mochi.
    """
    if steps == 1:
        return torch.tensor([1.0, 0.0]) * space.sigma_max
    even, threshold = steps // 2, LINEAR_PART
    excess = even - threshold * steps
    square = excess / (even * (steps - even) ** 2)
    linear = threshold / even - 2 * excess / (steps - even) ** 2
    noise = [1 - i * threshold / even for i in range(even)]
    noise += [1 - (square * i**2 + linear * i + square * even**2) for i in range(even, steps)]
    return torch.tensor([*noise, 0.0]) * space.sigma_max


def kl_optimal(space: SamplingSpace, steps: int) -> Tensor:
    """Even in atan(sigma). Sabour et al. 2024, arXiv:2404.14507. A single step starts from sigma_max."""
    weight = torch.arange(steps) / max(steps - 1, 1)
    angle = weight * math.atan(space.sigma_min) + (1 - weight) * math.atan(space.sigma_max)
    return ending_in_zero(precise.tan(angle))


SCHEDULES: dict[ScheduleName, Schedule] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}


def schedule_sigmas(space: SamplingSpace, schedule: ScheduleName, steps: int) -> Tensor:
    """Returns the levels of the schedule of this name. Raises ValueError for an unknown name or fewer than 1 step."""
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if steps < 1:
        raise ValueError(f"a schedule of {steps} steps was asked for; give 1 or more.")
    return SCHEDULES[schedule](space, steps)


def denoise_sigmas(space: SamplingSpace, schedule: ScheduleName, steps: int, *, denoise: float = 1.0) -> Tensor:
    """Returns the levels of a schedule, or its last `steps` steps; empty if there is nothing to denoise.

    denoise: below 1, the steps are the last ones of a longer schedule of int(steps / denoise), to start from a picture.
    Raises ValueError for one of more than `limits.LONGEST_SCHEDULE`.
    """
    return _last_steps(lambda total: schedule_sigmas(space, schedule, total), steps, denoise)


def ksampler_sigmas(
    space: SamplingSpace, *, sampler: SamplerName, schedule: ScheduleName, steps: int, denoise: float = 1.0
) -> Tensor:
    """Returns the levels that KSampler visits: `denoise_sigmas`, but for some samplers.

    Those that discard the penultimate level get one step more and lose the last level above 0.
    """

    def without_penultimate(total: int) -> Tensor:
        sigmas = schedule_sigmas(space, schedule, total + 1)
        return torch.cat([sigmas[:-2], sigmas[-1:]])

    if sampler_named(sampler).discards_penultimate_sigma:
        return _last_steps(without_penultimate, steps, denoise)
    return denoise_sigmas(space, schedule, steps, denoise=denoise)


def _last_steps(levels: Callable[[int], Tensor], steps: int, denoise: float) -> Tensor:
    if denoise <= 0.0:
        return torch.empty(0)
    if denoise > 0.9999:
        return levels(steps)
    return levels(whole_steps(steps, denoise))[-(steps + 1) :]


def cut_sigmas(sigmas: Tensor, *, start: int = 0, end: int | None = None, leftover_noise: bool = False) -> Tensor:
    """Returns the levels from step `start` to step `end`, a new tensor; empty if no step is left.

    leftover_noise: stop at the level of `end`; otherwise the last step goes all the way to 0. An `end` at or past the
    schedule's own changes nothing.
    """
    sigmas = sigmas.clone()
    if end is not None and end < len(sigmas) - 1:
        sigmas = sigmas[: end + 1]
        if not leftover_noise:
            sigmas[-1] = 0
    return sigmas[start:] if start < len(sigmas) - 1 else sigmas[:0]


def _timesteps(space: SamplingSpace, count: int) -> Tensor:
    top, bottom = space.timestep(space.sigmas[-1]).item(), space.timestep(space.sigmas[0]).item()
    return torch.linspace(top, bottom, count)

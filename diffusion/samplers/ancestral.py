"""Samplers that step to below the next level and add fresh noise up to it: ancestral and consistency sampling.

Each keeps the marginal distribution of x at every level. `eta` scales the noise (0 gives the ODE), `s_noise` the std of
each draw; draws are independent. Formulas and the order of operations as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import precise
from .ode import slope
from .problem import Problem, Query, Steps

FLOW_START = 0.9999  # where the first middle level of a flow lies, instead of at lambda's infinite end


def euler_ancestral(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """First order, one query a step: an Euler step to below the target level, then noise up to it.

    Song et al. 2021, arXiv:2010.02502, eq. 16, written in sigma.
    """
    is_flow = problem.space.path.is_flow
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        down, up = flow_ancestral_levels(s, t, eta) if is_flow else ancestral_levels(s, t, eta)
        if down == 0:
            x = denoised
        elif is_flow:
            x = (down / s) * x + (1 - down / s) * denoised
            if eta > 0:
                x = (1 - t) / (1 - down) * x + problem.noise.normal() * s_noise * up
        else:
            x = x + slope(x, denoised, s) * (down - s) + problem.noise.normal() * s_noise * up
    return x


def dpm_2_ancestral(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """Second order, by the slope at the geometric mean of the levels; two queries a step, one for a step to 0.

    Lu et al. 2022, arXiv:2206.00927, DPM-Solver-2, with the noise of an ancestral step.
    """
    is_flow = problem.space.path.is_flow
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        d = slope(x, denoised, s)
        down, up = flow_ancestral_levels(s, t, eta) if is_flow else ancestral_levels(s, t, eta)
        if down > 0:
            middle = precise.exp(precise.log(s).lerp(precise.log(down), 0.5))
            x_middle = x + d * (middle - s)
            denoised, _ = yield Query(x_middle, middle, step)
            d = slope(x_middle, denoised, middle)
        x = x + d * (down - s)
        if eta > 0 and t > 0:
            x = _renoised(problem, x, down, t, up * s_noise)
    return x


def dpmpp_2s_ancestral(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """Second order in lambda, by the estimate at the step's middle; two queries a step, one for a step to 0.

    Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(2S), with the noise of an ancestral step.
    """
    path, x = problem.space.path, problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        down, up = flow_ancestral_levels(s, t, eta) if path.is_flow else ancestral_levels(s, t, eta)
        if down == 0:
            x = x + slope(x, denoised, s) * (down - s)
            continue
        middle = _middle_level(problem, s, down)
        x_middle = (middle / s) * x + (1 - middle / s) * denoised
        denoised, _ = yield Query(x_middle, middle, step)
        x = (down / s) * x + (1 - down / s) * denoised
        if eta > 0:
            x = _renoised(problem, x, down, t, up * s_noise)
    return x


def ddpm(problem: Problem) -> Steps:
    """Draws from the posterior of the next level given x and the estimate; first order, one query a step.

    Ho et al. 2020, arXiv:2006.11239, eq. 7 and 11, in the variance-preserving latent x / sqrt(1 + sigma^2).
    """
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        eps = slope(x, denoised, s)
        signal, next_signal = 1 / (s * s + 1), 1 / (t * t + 1)  # alphas_cumprod
        alpha = signal / next_signal
        x = x / precise.sqrt(1 + s * s)
        x = precise.sqrt(1 / alpha) * (x - (1 - alpha) * eps / precise.sqrt(1 - signal))
        if t > 0:
            std = precise.sqrt((1 - alpha) * (1 - next_signal) / (1 - signal))
            x = (x + std * problem.noise.normal()) * precise.sqrt(1 + t * t)
    return x


def lcm(problem: Problem) -> Steps:
    """Consistency sampling: go to the estimate, then noise it up to the next level; one query a step.

    Song et al. 2023, arXiv:2303.01469, algorithm 1.
    """
    x = problem.x
    for step, s, t in problem.intervals():
        x, _ = yield Query(x, s, step)
        if t > 0:
            x = problem.space.noise_scaling(t, problem.noise.normal(), x)
    return x


def ancestral_levels(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Returns (down, up) with down^2 + up^2 = t^2: step from s down to `down`, then add noise of std `up`."""
    if eta == 0:
        return t, torch.zeros_like(t)
    up = min(t, eta * precise.sqrt(t**2 * (s**2 - t**2) / s**2))
    return precise.sqrt(t**2 - up**2), up


def flow_ancestral_levels(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The same for flow: noise of std `up` after scaling by (1 - t) / (1 - down), so that alpha becomes 1 - t again."""
    down = t * (1 + (t / s - 1) * eta)
    return down, precise.sqrt(t**2 - down**2 * (1 - t) ** 2 / (1 - down) ** 2)


def _renoised(problem: Problem, x: Tensor, down: Tensor, t: Tensor, std: Tensor) -> Tensor:
    """Returns x at level t from x at level `down`, with noise of this std after scaling."""
    if problem.space.path.is_flow:
        x = (1 - t) / (1 - down) * x
    return x + problem.noise.normal() * std


def _middle_level(problem: Problem, s: Tensor, t: Tensor) -> Tensor:
    """Returns the level halfway in lambda; from a flow's level 1, where lambda is infinite, a level just below it."""
    path = problem.space.path
    if path.is_flow and s == 1:
        return s.new_tensor(FLOW_START)
    return path.sigma_at(path.log_snr(s).lerp(path.log_snr(t), 0.5))

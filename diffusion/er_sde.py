"""ER-SDE: solvers of the extended reverse-time SDE. Cui et al. 2023, arXiv:2309.06169.

In ell = sigma / alpha. A function of ell, the scaler, sets how much noise is added: the further it rises above ell itself,
the more. Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import precise
from .problem import Problem, Query, Steps

POINTS = 200  # of the sums that stand for the integrals of 1 / scaler

Scaler = Callable[[Tensor], Tensor]


def er_scaler(ell: Tensor) -> Tensor:
    """The scaler that the paper found best (its ER SDE 5)."""
    return ell * (precise.exp(ell**0.3) + 10.0)


def reverse_time_scaler(eta: float) -> Scaler:
    """The reverse-time SDE for eta 1, the ODE for 0 (which adds no noise)."""
    return lambda ell: ell ** (eta + 1)


def er_sde(problem: Problem, *, scaler: Scaler = er_scaler, s_noise: float = 1.0, max_stage: int = 3) -> Steps:
    """Order `max_stage`, 1 to 3, by the estimate's changes over the last steps; one query a step."""
    problem = problem.off_unit_level()
    path, x = problem.space.path, problem.x
    ells = precise.exp(path.log_snr(problem.sigmas).neg())
    last: Tensor | None = None  # the last step's estimate, and its rate of change
    rate_last: Tensor | None = None
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        ell_s, ell_t = ells[step], ells[step + 1]
        alpha_s, alpha_t = s / ell_s, t / ell_t
        r = scaler(ell_t) / scaler(ell_s)
        x = alpha_t / alpha_s * r * x + alpha_t * (1 - r) * denoised
        rate = None
        if max_stage > 1 and last is not None:
            d = ell_t - ell_s
            points = ell_t + torch.arange(POINTS) * (-d / POINTS)
            inverse = -d / POINTS / scaler(points)
            rate = (denoised - last) / (ell_s - ells[step - 1])
            x = x + alpha_t * (d + inverse.sum() * scaler(ell_t)) * rate
            if max_stage > 2 and rate_last is not None:
                bend = (rate - rate_last) / ((ell_s - ells[step - 2]) / 2)
                x = x + alpha_t * (d**2 / 2 + (inverse * (points - ell_s)).sum() * scaler(ell_t)) * bend
        if s_noise > 0:
            std = precise.sqrt(ell_t**2 - ell_s**2 * r**2).nan_to_num(nan=0.0)
            x = x + alpha_t * problem.noise.normal() * s_noise * std
        last, rate_last = denoised, rate
    return x

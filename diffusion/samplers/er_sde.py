"""ER-SDE: solvers of the extended reverse-time SDE. Cui et al. 2023, arXiv:2309.06169.

In ell = sigma / alpha. A function of ell, the scaler, sets how much noise is added: the further it rises above ell itself,
the more. Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..names import ErSolver
from . import precise
from .problem import Problem, Query, Steps

POINTS = 200  # of the sums that stand for the integrals of 1 / scaler


def er_sde(
    problem: Problem, *, solver: ErSolver = "ER-SDE", eta: float = 1.0, s_noise: float = 1.0, max_stage: int = 3
) -> Steps:
    """Order `max_stage`, 1 to 3, by the estimate's changes over the last steps; one query a step.

    solver: whose scaler. "ER-SDE" is the one that the paper found best (its ER SDE 5); "ODE" adds no noise. eta: the share
    of noise of the reverse-time SDE; the others have none to choose.
    """
    problem = problem.off_unit_level()
    eta, s_noise = (0.0, 0.0) if solver == "ODE" else (eta, s_noise)
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
        scale_t = _scaler(ell_t, solver, eta)
        r = scale_t / _scaler(ell_s, solver, eta)
        x = alpha_t / alpha_s * r * x + alpha_t * (1 - r) * denoised
        rate = None
        if max_stage > 1 and last is not None:
            d = ell_t - ell_s
            points = ell_t + torch.arange(POINTS) * (-d / POINTS)
            inverse = -d / POINTS / _scaler(points, solver, eta)
            rate = (denoised - last) / (ell_s - ells[step - 1])
            x = x + alpha_t * (d + inverse.sum() * scale_t) * rate
            if max_stage > 2 and rate_last is not None:
                bend = (rate - rate_last) / ((ell_s - ells[step - 2]) / 2)
                x = x + alpha_t * (d**2 / 2 + (inverse * (points - ell_s)).sum() * scale_t) * bend
        if s_noise > 0:
            std = precise.sqrt(ell_t**2 - ell_s**2 * r**2).nan_to_num(nan=0.0)
            x = x + alpha_t * problem.noise.normal() * s_noise * std
        last, rate_last = denoised, rate
    return x


def _scaler(ell: Tensor, solver: ErSolver, eta: float) -> Tensor:
    return ell * (precise.exp(ell**0.3) + 10.0) if solver == "ER-SDE" else ell ** (eta + 1)

"""Solvers of the diffusion SDE whose noise is a Brownian path's: more steps refine the same picture.

Each keeps the marginal distribution of x at every level. `eta` scales the noise (0 gives the ODE), `s_noise` the std of
each draw. lambda is `Path.log_snr`. Formulas and the order of operations as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from torch import Tensor

from ..names import SdeRule
from . import precise
from .ancestral import ancestral_levels
from .problem import Problem, Query, Steps


def dpmpp_sde(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> Steps:
    """Second order, two queries a step, one for a step to 0; the first goes the fraction `r` of the step in lambda.

    Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(2S), with the noise of an ancestral step from a Brownian path.
    """
    problem = problem.off_unit_level()
    path, x = problem.space.path, problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
        middle = path.sigma_at(lambda_s + r * (lambda_t - lambda_s))
        x_middle = _exponential_step(problem, x, denoised, s, middle, eta=eta, s_noise=s_noise)
        denoised_middle, _ = yield Query(x_middle, middle, step)
        estimate = (1 - 1 / (2 * r)) * denoised + 1 / (2 * r) * denoised_middle
        x = _exponential_step(problem, x, estimate, s, t, eta=eta, s_noise=s_noise)
    return x


def dpmpp_2m_sde(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0, solver: SdeRule = "midpoint") -> Steps:
    """Second order, multistep in lambda by the midpoint rule or by Heun's, one query a step.

    Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver++(2M).
    """
    problem = problem.off_unit_level()
    path, x = problem.space.path, problem.x
    history: tuple[Tensor, Tensor] | None = None  # the last step's estimate and length
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
        h = lambda_t - lambda_s
        growth = precise.expm1(-h * (eta + 1)).neg()
        alpha_t = t * precise.exp(lambda_t)
        x = t / s * precise.exp(-h * eta) * x + alpha_t * growth * denoised
        if history is not None:
            last, h_last = history
            share = 0.5 * alpha_t * growth
            if solver == "heun":
                share = alpha_t * (growth / (-h * (eta + 1)) + 1)
            x = x + share * (1 / (h_last / h)) * (denoised - last)
        x = x + _brownian_noise(problem, s, t, h, eta=eta, s_noise=s_noise)
        history = denoised, h
    return x


def dpmpp_3m_sde(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """Third order, multistep in lambda, one query a step: `dpmpp_2m_sde` with the estimate's second derivative.

    After Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(3M), with the noise of SDE-DPM-Solver++.
    """
    problem = problem.off_unit_level()
    path, x = problem.space.path, problem.x
    history: list[tuple[Tensor, Tensor]] = []  # the last two steps' estimates and lengths, newest first
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
        h = lambda_t - lambda_s
        h_eta = h * (eta + 1)
        alpha_t = t * precise.exp(lambda_t)
        x = t / s * precise.exp(-h * eta) * x + alpha_t * precise.expm1(-h_eta).neg() * denoised
        phi_2 = precise.expm1(-h_eta) / h_eta + 1
        if len(history) == 2:
            (first, h_first), (second, h_second) = history
            r_0, r_1 = h_first / h, h_second / h
            change_0, change_1 = (denoised - first) / r_0, (first - second) / r_1
            rise = change_0 + (change_0 - change_1) * r_0 / (r_0 + r_1)
            bend = (change_0 - change_1) / (r_0 + r_1)
            x = x + alpha_t * phi_2 * rise - alpha_t * (phi_2 / h_eta - 0.5) * bend
        elif history:
            ((first, h_first),) = history
            x = x + alpha_t * phi_2 * ((denoised - first) / (h_first / h))
        x = x + _brownian_noise(problem, s, t, h, eta=eta, s_noise=s_noise)
        history = [(denoised, h), *history[:1]]
    return x


def _exponential_step(
    problem: Problem, x: Tensor, estimate: Tensor, s: Tensor, t: Tensor, *, eta: float, s_noise: float
) -> Tensor:
    """Returns x at level t from x at s, exact for a constant estimate, with an ancestral step's share of noise."""
    path = problem.space.path
    lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
    alpha_s, alpha_t = s * precise.exp(lambda_s), t * precise.exp(lambda_t)
    down, up = ancestral_levels(precise.exp(lambda_s.neg()), precise.exp(lambda_t.neg()), eta)
    h = precise.log(down).neg() - lambda_s
    x = alpha_t / alpha_s * precise.exp(h.neg()) * x - alpha_t * precise.expm1(h.neg()) * estimate
    if eta > 0:
        x = x + alpha_t * problem.noise.brownian(s, t) * s_noise * up
    return x


def _brownian_noise(problem: Problem, s: Tensor, t: Tensor, h: Tensor, *, eta: float, s_noise: float) -> Tensor | float:
    """Returns the noise that belongs to a step of length h in lambda from level s to t."""
    if eta == 0:
        return 0.0
    return problem.noise.brownian(s, t) * t * precise.sqrt(precise.expm1(-2 * h * eta).neg()) * s_noise

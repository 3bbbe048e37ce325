"""Samplers that add noise on the way: solvers of the diffusion SDE, and ancestral and consistency sampling.

Each keeps the marginal distribution of x at every level. `eta` scales the noise (0 gives the ODE), `s_noise` the std of
each draw. lambda is `Path.log_snr`. Formulas and the order of operations as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from . import precise
from .ode_samplers import slope
from .problem import Problem, Query, Steps


def euler_ancestral(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """First order, one query a step: an Euler step to below the target level, then noise up to it.

    Song et al. 2021, arXiv:2010.02502, eq. 16, written in sigma.
    """
    is_flow = problem.space.path.is_flow
    x = problem.x
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        down, up = _flow_ancestral_levels(s, t, eta) if is_flow else _ancestral_levels(s, t, eta)
        if down == 0:
            x = denoised
        elif is_flow:
            x = (down / s) * x + (1 - down / s) * denoised
            if eta > 0:
                x = (1 - t) / (1 - down) * x + problem.noise.normal() * s_noise * up
        else:
            x = x + slope(x, denoised, s) * (down - s) + problem.noise.normal() * s_noise * up
    return x


def dpmpp_sde(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> Steps:
    """Second order, two queries a step, one for a step to 0; the first goes the fraction `r` of the step in lambda.

    Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(2S), with the noise of an ancestral step from a Brownian path.
    """
    problem = _off_unit_level(problem)
    path, x = problem.space.path, problem.x
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
        middle = path.sigma_at(lambda_s + r * (lambda_t - lambda_s))
        x_middle = _exponential_step(problem, x, denoised, s, middle, eta=eta, s_noise=s_noise)
        denoised_middle = yield Query(x_middle, middle, step)
        estimate = (1 - 1 / (2 * r)) * denoised + 1 / (2 * r) * denoised_middle
        x = _exponential_step(problem, x, estimate, s, t, eta=eta, s_noise=s_noise)
    return x


def dpmpp_2m_sde(problem: Problem, *, eta: float = 1.0, s_noise: float = 1.0) -> Steps:
    """Second order, multistep in lambda by the midpoint rule, one query a step; noise from a Brownian path.

    Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver++(2M).
    """
    problem = _off_unit_level(problem)
    path, x = problem.space.path, problem.x
    history: tuple[Tensor, Tensor] | None = None  # the last step's estimate and length
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
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
            x = x + 0.5 * alpha_t * growth * (1 / (h_last / h)) * (denoised - last)
        if eta > 0:
            x = x + problem.noise.brownian(s, t) * t * precise.sqrt(precise.expm1(-2 * h * eta).neg()) * s_noise
        history = denoised, h
    return x


def lcm(problem: Problem) -> Steps:
    """Consistency sampling: go to the estimate, then noise it up to the next level; one query a step.

    Song et al. 2023, arXiv:2303.01469, algorithm 1.
    """
    x = problem.x
    for step, s, t in problem.intervals():
        x = yield Query(x, s, step)
        if t > 0:
            x = problem.space.noise_scaling(t, problem.noise.normal(), x)
    return x


def _ancestral_levels(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Returns (down, up) with down^2 + up^2 = t^2: step from s down to `down`, then add noise of std `up`."""
    up = min(t, eta * precise.sqrt(t**2 * (s**2 - t**2) / s**2))
    return precise.sqrt(t**2 - up**2), up


def _flow_ancestral_levels(s: Tensor, t: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The same for flow: noise of std `up` after scaling by (1 - t) / (1 - down), so that alpha becomes 1 - t again."""
    down = t * (1 + (t / s - 1) * eta)
    return down, precise.sqrt(t**2 - down**2 * (1 - t) ** 2 / (1 - down) ** 2)


def _exponential_step(
    problem: Problem, x: Tensor, estimate: Tensor, s: Tensor, t: Tensor, *, eta: float, s_noise: float
) -> Tensor:
    """Returns x at level t from x at s, exact for a constant estimate, with an ancestral step's share of noise."""
    path = problem.space.path
    lambda_s, lambda_t = path.log_snr(s), path.log_snr(t)
    alpha_s, alpha_t = s * precise.exp(lambda_s), t * precise.exp(lambda_t)
    down, up = _ancestral_levels(precise.exp(lambda_s.neg()), precise.exp(lambda_t.neg()), eta)
    h = precise.log(down).neg() - lambda_s
    x = alpha_t / alpha_s * precise.exp(h.neg()) * x - alpha_t * precise.expm1(h.neg()) * estimate
    if eta > 0:
        x = x + alpha_t * problem.noise.brownian(s, t) * s_noise * up
    return x


def _off_unit_level(problem: Problem) -> Problem:
    """Moves a flow model's first level from 1, where lambda is infinite, to the level 0.01 % into a run."""
    if not problem.space.path.is_flow or problem.sigmas[0] < 1:
        return problem
    sigmas = problem.sigmas.clone()
    sigmas[0] = problem.space.percent_to_sigma(1e-4)
    return replace(problem, sigmas=sigmas)

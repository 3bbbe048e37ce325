"""Samplers that solve the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma. They draw no noise.

The ODE has this one form for variance-exploding and for flow models, so nothing here asks which it solves.
Formulas and the order of operations as in ComfyUI 0.8.0 (behaviour): results agree to the bit where D does.
"""

from __future__ import annotations

from torch import Tensor

from . import precise
from .problem import Problem, Query, Steps


def euler(problem: Problem) -> Steps:
    """First order, one query a step. Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn."""
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        x = x + slope(x, denoised, s) * (t - s)
    return x


def heun(problem: Problem) -> Steps:
    """Second order, two queries a step, one for a step to 0. arXiv:2206.00364, algorithm 1."""
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        d = slope(x, denoised, s)
        if t > 0:
            x_end = x + d * (t - s)
            denoised, _ = yield Query(x_end, t, step)
            d = (d + slope(x_end, denoised, t)) / 2
        x = x + d * (t - s)
    return x


def heunpp2(problem: Problem) -> Steps:
    """Heun's method with a third slope, from one level further on; three queries a step, fewer for the last two.

    The further slopes get weights that fall with their levels, from a half and a third at the start of the schedule
    towards none, where it becomes Euler's method: as in the field's common code, which names no paper.
    """
    x, sigmas = problem.x, problem.sigmas
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        d = slope(x, denoised, s)
        if t != sigmas[-1]:
            x_end = x + d * (t - s)
            denoised, _ = yield Query(x_end, t, step)
            d_end = slope(x_end, denoised, t)
            beyond = sigmas[step + 2]
            if beyond == sigmas[-1]:
                w_end = t / (2 * sigmas[0])
                d = d * (1 - w_end) + d_end * w_end
            else:
                x_beyond = x_end + d_end * (beyond - t)
                denoised, _ = yield Query(x_beyond, beyond, step)
                d_beyond = slope(x_beyond, denoised, beyond)
                w_end, w_beyond = t / (3 * sigmas[0]), beyond / (3 * sigmas[0])
                d = d * (1 - w_end - w_beyond) + d_end * w_end + d_beyond * w_beyond
        x = x + d * (t - s)
    return x


def dpm_2(problem: Problem) -> Steps:
    """Second order, by the slope at the geometric mean of the levels; two queries a step, one for a step to 0.

    Lu et al. 2022, arXiv:2206.00927, DPM-Solver-2, in the form of arXiv:2206.00364.
    """
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        d = slope(x, denoised, s)
        if t > 0:
            middle = precise.exp(precise.log(s).lerp(precise.log(t), 0.5))
            x_middle = x + d * (middle - s)
            denoised, _ = yield Query(x_middle, middle, step)
            d = slope(x_middle, denoised, middle)
        x = x + d * (t - s)
    return x


def dpmpp_2m(problem: Problem) -> Steps:
    """Second order, multistep in -ln sigma, one query a step. Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(2M)."""
    x = problem.x
    history: tuple[Tensor, Tensor] | None = None  # the last step's estimate and length
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        time_s, time_t = precise.log(s).neg(), precise.log(t).neg()
        h = time_t - time_s
        estimate = denoised
        if history is not None and t > 0:
            last, h_last = history
            r = h_last / h
            estimate = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * last
        x = (precise.exp(time_t.neg()) / precise.exp(time_s.neg())) * x - precise.expm1(h.neg()) * estimate
        history = denoised, h
    return x


def gradient_estimation(problem: Problem, *, gamma: float = 2.0) -> Steps:
    """First order, corrected by the change of the slope since the last step; one query a step.

    Permenter and Yuan 2023, arXiv:2306.04848. gamma: 1 is Euler's method.
    """
    x = problem.x
    d_last: Tensor | None = None
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
        else:
            d = slope(x, denoised, s)
            x = x + d * (t - s)
            if d_last is not None:
                x = x + (gamma - 1) * (d - d_last) * (t - s)
            d_last = d
    return x


def slope(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """Returns dx/dsigma of the probability-flow ODE. arXiv:2206.00364, eq. 1 and 3 with sigma(t) = t."""
    return (x - denoised) / sigma

"""Samplers that solve the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma. They draw no noise.

The ODE has this one form for variance-exploding and for flow models, so nothing here asks which it solves.
Formulas and the order of operations as in ComfyUI 0.8.0 (behaviour): results agree to the bit where D does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from . import precise
from .problem import Problem, Query, Steps


def euler(problem: Problem) -> Steps:
    """First order, one query a step. Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn."""
    x = problem.x
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        x = x + slope(x, denoised, s) * (t - s)
    return x


def heun(problem: Problem) -> Steps:
    """Second order, two queries a step, one for a step to 0. arXiv:2206.00364, algorithm 1."""
    x = problem.x
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        d = slope(x, denoised, s)
        if t > 0:
            x_end = x + d * (t - s)
            denoised = yield Query(x_end, t, step)
            d = (d + slope(x_end, denoised, t)) / 2
        x = x + d * (t - s)
    return x


def dpm_2(problem: Problem) -> Steps:
    """Second order, by the slope at the geometric mean of the levels; two queries a step, one for a step to 0.

    Lu et al. 2022, arXiv:2206.00927, DPM-Solver-2, in the form of arXiv:2206.00364.
    """
    x = problem.x
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        d = slope(x, denoised, s)
        if t > 0:
            middle = precise.exp(precise.log(s).lerp(precise.log(t), 0.5))
            x_middle = x + d * (middle - s)
            denoised = yield Query(x_middle, middle, step)
            d = slope(x_middle, denoised, middle)
        x = x + d * (t - s)
    return x


def lms(problem: Problem, *, order: int = 4) -> Steps:
    """Linear multistep (Adams-Bashforth on the schedule's own nodes) of up to `order`, one query a step."""
    x = problem.x
    levels = problem.sigmas.tolist()
    slopes: list[Tensor] = []  # newest first
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
        slopes = [slope(x, denoised, s), *slopes[: order - 1]]
        if t == 0:
            x = denoised
        else:
            nodes = levels[step::-1][: len(slopes)]
            weights = _adams_bashforth(nodes, levels[step], levels[step + 1])
            x = x + sum(weight * d for weight, d in zip(weights, slopes, strict=True))
    return x


def dpmpp_2m(problem: Problem) -> Steps:
    """Second order, multistep in -ln sigma, one query a step. Lu et al. 2022, arXiv:2211.01095, DPM-Solver++(2M)."""
    x = problem.x
    history: tuple[Tensor, Tensor] | None = None  # the last step's estimate and length
    for step, s, t in problem.intervals():
        denoised = yield Query(x, s, step)
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


def slope(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """Returns dx/dsigma of the probability-flow ODE. arXiv:2206.00364, eq. 1 and 3 with sigma(t) = t."""
    return (x - denoised) / sigma


def _adams_bashforth(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Returns the integral from start to end of each Lagrange polynomial on `nodes`; Gauss's rule is exact for it."""
    points, weights = np.polynomial.legendre.leggauss((len(nodes) + 1) // 2)
    half = (end - start) / 2
    at = start + half * (points + 1)

    integrals = []
    for j, node in enumerate(nodes):
        factors = [(at - other) / (node - other) for k, other in enumerate(nodes) if k != j]
        integrals.append(half * float(weights @ np.prod([np.ones_like(at), *factors], axis=0)))
    return integrals

"""Linear multistep solvers of dx/dsigma = (x - D(x; sigma)) / sigma: they integrate a polynomial through the last slopes.

All ask once a step, and start with lower orders while there is no history. They differ in the variable in which the
polynomial is fitted, and in how exactly. They draw no noise. Formulas as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .ode import slope
from .problem import Problem, Query, Steps

EVEN_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of order 1 to 4 for steps of one length, newest slope first."""

DEIS_POINTS = 10000  # of the sum that stands for DEIS's integral; ComfyUI's number, and it shows in the fourth digit
_VP_TIME = 0.001  # the time of the level 0.002; that of the level 80 is 1. arXiv:2206.00364, table 1
_VP_LOG_LOW, _VP_LOG_HIGH = math.log(0.002**2 + 1), math.log(80.0**2 + 1)
VP_BETA_D = 2 * (_VP_LOG_LOW / _VP_TIME - _VP_LOG_HIGH) / (_VP_TIME - 1)
VP_BETA_MIN = _VP_LOG_HIGH - VP_BETA_D / 2


def lms(problem: Problem, *, order: int = 4) -> Steps:
    """Linear multistep (Adams-Bashforth on the schedule's own nodes) of up to `order`, one query a step."""
    x = problem.x
    levels = problem.sigmas.tolist()
    slopes: list[Tensor] = []  # newest first
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        slopes = [slope(x, denoised, s), *slopes[: order - 1]]
        if t == 0:
            x = denoised
        else:
            nodes = levels[step::-1][: len(slopes)]
            weights = _adams_bashforth(nodes, levels[step], levels[step + 1])
            x = x + sum(weight * d for weight, d in zip(weights, slopes, strict=True))
    return x


def ipndm(problem: Problem, *, max_order: int = 4) -> Steps:
    """Adams-Bashforth of up to `max_order`, 4 at most, as though all steps were of one length.

    Zhang and Chen 2022, arXiv:2204.13902 (iPNDM), after Liu et al. 2022, arXiv:2202.09778.
    """
    x = problem.x
    slopes: list[Tensor] = []  # newest first
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        slopes = [slope(x, denoised, s), *slopes[: max_order - 1]]
        x = denoised if t == 0 else x + (t - s) * _combined(EVEN_STEPS[len(slopes) - 1], slopes)
    return x


def ipndm_v(problem: Problem, *, max_order: int = 4) -> Steps:
    """Adams-Bashforth of up to `max_order`, 4 at most, by the true lengths of the steps.

    From order 3 on the weights are those of the field's common code: exact (as `lms` has them) for steps of one length,
    and near to it for others.
    """
    x = problem.x
    levels = problem.sigmas.tolist()
    slopes: list[Tensor] = []  # newest first
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        slopes = [slope(x, denoised, s), *slopes[: max_order - 1]]
        if t == 0:
            x = denoised
        else:
            lengths = [levels[k + 1] - levels[k] for k in range(step, step - len(slopes), -1)]
            x = x + (t - s) * _combined(_uneven_steps(lengths), slopes)
    return x


def deis(problem: Problem, *, max_order: int = 3) -> Steps:
    """Adams-Bashforth of up to `max_order` in the time of the variance-preserving SDE.

    Zhang and Chen 2022, arXiv:2204.13902 (tAB-DEIS); time and SDE as in arXiv:2206.00364, table 1.
    """
    x = problem.x
    times = [_vp_time(level) for level in problem.sigmas.tolist()]
    slopes: list[Tensor] = []  # newest first
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        slopes = [slope(x, denoised, s), *slopes[: max_order - 1]]
        if t <= 0 or len(slopes) == 1:
            x = x + (t - s) * slopes[0]
        else:
            x = x + _combined(_deis_weights(times[step::-1][: len(slopes)], times[step + 1]), slopes)
    return x


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    weighted = [weight * d for weight, d in zip(weights, slopes, strict=True)]
    return sum(weighted[1:], start=weighted[0])


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


def _uneven_steps(lengths: Sequence[float]) -> list[float]:
    """Returns ipndm_v's weights, newest slope first. lengths: of the step to make and the ones before it, newest first."""
    if len(lengths) == 1:
        return [1.0]
    h, h1, *older = lengths
    weights = [1 + h / h1 / 2, -h / h1 / 2, 0.0, 0.0]
    if older:
        h2 = older[0]
        third = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
        weights[0] += third
        weights[1] -= (1 + h1 / h2) * third
        weights[2] += h1 / h2 * third
    if len(older) > 1:
        h3 = older[1]
        inner = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        fourth = inner * (h * (h + h1) * (h + h1 + h2)) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        k = h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights[0] += fourth
        weights[1] -= (1 + h1 / h2 + k) * fourth
        weights[2] += (h1 / h2 + k * (1 + h2 / h3)) * fourth
        weights[3] -= k * h1 / h2 * fourth
    return weights[: len(lengths)]


def _vp_time(level: float) -> float:
    """Returns the time at which the variance-preserving SDE has this sigma. arXiv:2206.00364, table 1."""
    return (math.sqrt(VP_BETA_MIN**2 + 2 * VP_BETA_D * math.log(level**2 + 1)) - VP_BETA_MIN) / VP_BETA_D


def _deis_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Returns the integral from nodes[0] to `end` of d sigma/d time times each Lagrange polynomial on `nodes`, as a sum."""
    time = np.linspace(nodes[0], end, DEIS_POINTS)
    alpha = np.exp(-(time**2) * VP_BETA_D / 2 - time * VP_BETA_MIN)
    rate = 0.5 * (time * VP_BETA_D + VP_BETA_MIN) / np.sqrt(alpha * (1 - alpha))
    weights = []
    for j, node in enumerate(nodes):
        factors = [(time - other) / (node - other) for k, other in enumerate(nodes) if k != j]
        weights.append(float(np.sum(rate * np.prod(factors, axis=0))) * (end - nodes[0]) / DEIS_POINTS)
    return weights

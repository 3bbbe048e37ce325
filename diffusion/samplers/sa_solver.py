"""SA-Solver: a stochastic Adams method, a predictor and a corrector of the diffusion SDE. Xue et al. 2023, arXiv:2309.05019.

In lambda (`Path.log_snr`), with data prediction. The noise is that of the SDE within a window of levels, and none outside
of it. Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from . import precise
from .problem import Problem, Query, Steps


def sa_solver(
    problem: Problem,
    *,
    eta: float = 1.0,
    window: tuple[float, float] | None = None,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    pece: bool = False,
    simple_order_2: bool = False,
) -> Steps:
    """One query a step, or two with `pece`, which asks again at the corrected x.

    eta: the paper's tau, the share of noise, between the levels of `window`, highest first; None is from the fraction 0.2
    of a run to 0.8. corrector_order: 0 is none. Orders are lower while there is little history, and towards a level of 0.
    simple_order_2: the paper's simpler weights where the order is 2. Raises ValueError for levels that rise.
    """
    problem = problem.off_unit_level()
    sigmas, n = problem.sigmas, len(problem.sigmas) - 1
    if (sigmas.diff() > 0).any():
        raise ValueError("sa_solver goes down noise levels alone, and these rise; give falling ones, or choose euler.")
    lambdas = problem.space.path.log_snr(sigmas).tolist()
    high, low = window or (problem.space.percent_to_sigma(0.2), problem.space.percent_to_sigma(0.8))
    x = predicted = problem.x
    estimates: list[Tensor] = []  # newest first
    tau, noise = 0.0, None  # of the last predictor
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(predicted, s, step)
        estimates = [denoised, *estimates[: max(predictor_order, corrector_order) - 1]]
        predict = min(predictor_order, len(estimates))
        correct = min(corrector_order, len(estimates)) if step > 0 and (t > 0 or pece) else 0
        if sigmas[-1] == 0:
            predict, correct = min(predict, n - 1 - step), min(correct, n - step)

        if correct > 0:
            nodes = lambdas[step::-1][:correct]
            x = _adams(
                problem, x, estimates, nodes, between=(step - 1, step), lambdas=lambdas, tau=tau, simple=simple_order_2
            )
            x = x if noise is None else x + noise
            if pece:
                denoised, _ = yield Query(x, s, step)
                estimates[0] = denoised
        else:
            x = predicted

        if t == 0:
            predicted = denoised
            continue
        tau = eta if low <= t <= high else 0.0
        nodes = lambdas[step::-1][:predict]
        predicted = _adams(
            problem, x, estimates, nodes, between=(step, step + 1), lambdas=lambdas, tau=tau, simple=simple_order_2
        )
        noise = None
        if tau > 0 and s_noise > 0:
            h = lambdas[step + 1] - lambdas[step]
            noise = problem.noise.normal() * t * math.sqrt(-math.expm1(-2 * tau**2 * h)) * s_noise
            predicted = predicted + noise
    return predicted


def _adams(
    problem: Problem,
    x: Tensor,
    estimates: Sequence[Tensor],
    nodes: Sequence[float],
    *,
    between: tuple[int, int],
    lambdas: Sequence[float],
    tau: float,
    simple: bool,
) -> Tensor:
    """Returns x over the step `between` two levels of the schedule, without noise: exact for estimates' polynomial.

    nodes: the lambdas of the newest estimates, as many as the order.
    """
    (start, end), h = between, lambdas[between[1]] - lambdas[between[0]]
    s, t = problem.sigmas[start], problem.sigmas[end]
    alpha = t * precise.exp(problem.space.path.log_snr(t))
    x = t / s * math.exp(-(tau**2) * h) * x
    weights = _simple_weights if simple and len(nodes) == 2 else _weights
    for weight, estimate in zip(weights(nodes, lambdas[start], lambdas[end], 1 + tau**2), estimates, strict=False):
        x = x + alpha * weight * estimate
    return x


def _weights(nodes: Sequence[float], start: float, end: float, rate: float) -> list[float]:
    """Returns the integral of rate * e^(rate (v - end)) times each Lagrange polynomial on `nodes`, v from start to end."""
    order = len(nodes)
    nodes = [node - end for node in nodes]
    h = end - start
    moments = [-math.expm1(-rate * h)]  # of 1, v, v^2, ... around the end, by parts
    for power in range(1, order):
        moments.append(-((-h) ** power) * math.exp(-rate * h) - power / rate * moments[-1])
    weights: list[float] = np.linalg.solve(np.vander(nodes, order, increasing=True).T, np.array(moments)).tolist()
    return weights


def _simple_weights(nodes: Sequence[float], start: float, end: float, rate: float) -> list[float]:
    """The same for two nodes, one of them at the start, as though the exponential did not bend the line through them."""
    h = end - start
    whole = -math.expm1(-rate * h)
    rise = rate * h**2 / 2 / (nodes[0] - nodes[1])
    return [whole + rise, -rise] if nodes[0] == start else [rise, whole - rise]

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
    adams = _Adams(problem, simple=simple_order_2)
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
            x = adams.over(step - 1, x, estimates[:correct], newest=step, tau=tau)
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
        predicted = adams.over(step, x, estimates[:predict], newest=step, tau=tau)
        noise = None
        if tau > 0 and s_noise > 0:
            h = adams.lambdas[step + 1] - adams.lambdas[step]
            noise = problem.noise.normal() * t * math.sqrt(-math.expm1(-2 * tau**2 * h)) * s_noise
            predicted = predicted + noise
    return predicted


class _Adams:
    """Steps of a problem without their noise, exact for the polynomial through the newest estimates.

    simple: the paper's simpler weights where there are two.
    """

    def __init__(self, problem: Problem, *, simple: bool) -> None:
        self._problem, self._simple = problem, simple
        self.lambdas: list[float] = problem.space.path.log_snr(problem.sigmas).tolist()

    def over(self, step: int, x: Tensor, estimates: Sequence[Tensor], *, newest: int, tau: float) -> Tensor:
        """Returns x behind a step that begins with it. estimates: newest first; newest: the step of the first of them."""
        start, end = self.lambdas[step : step + 2]
        s, t = self._problem.sigmas[step], self._problem.sigmas[step + 1]
        alpha = t * precise.exp(self._problem.space.path.log_snr(t))
        x = t / s * math.exp(-(tau**2) * (end - start)) * x
        nodes = self.lambdas[newest::-1][: len(estimates)]
        weights = _simple_weights if self._simple and len(nodes) == 2 else _weights
        for weight, estimate in zip(weights(nodes, start, end, 1 + tau**2), estimates, strict=True):
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

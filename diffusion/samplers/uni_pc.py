"""UniPC: a predictor-corrector of order 3 that asks once a step. Zhao et al. 2023, arXiv:2302.04867.

Written for x itself: in the paper's variance-preserving latent all factors of alpha cancel, which leaves one formula,
in lambda = -ln sigma, for every model. Results as in ComfyUI 0.8.0 (behaviour), except that a run of a single step
reaches the estimate (there it stays noise) and that the caller's sigmas are not written to (there a final 0 becomes
0.001 in place).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from . import precise
from .problem import Problem, Query, Steps

MAX_ORDER = 3
LAST_LEVEL = 0.001  # stands in for a final 0, where lambda is infinite


def uni_pc(problem: Problem, *, variant: Literal["bh1", "bh2"] = "bh1") -> Steps:
    """Order 3, lower for the first and the last steps; one query a step, answered for predictor and corrector both.

    variant: the paper's B(h), which is h for bh1 and 1 - e^-h, here, for bh2; it shows where an order is below 3.
    """
    x, sigmas = problem.x, problem.sigmas.clone()
    n = len(sigmas) - 1
    if n < 1:
        return x
    if sigmas[-1] == 0:
        sigmas[-1] = LAST_LEVEL
    lambdas = _log_snr(sigmas).tolist()
    estimates = [(yield Query(x, sigmas[0], 0)).denoised]  # newest first
    for step in range(n):
        order = min(step + 1, MAX_ORDER, n - step)
        h = lambdas[step + 1] - lambdas[step]
        r = [(lambdas[step - k] - lambdas[step]) / h for k in range(1, order)]
        span = h if variant == "bh1" else -math.expm1(-h)
        predictor, corrector = _weights(r, h, span)
        base = math.exp(-h) * x - math.expm1(-h) * estimates[0]
        differences = [(m - estimates[0]) / r_k for m, r_k in zip(estimates[1:order], r, strict=True)]
        x = base + span * _combine(predictor, differences)
        if step + 1 < n:
            denoised, _ = yield Query(x, sigmas[step + 1], step + 1)
            x = base + span * _combine(corrector, [*differences, denoised - estimates[0]])
            estimates = [denoised, *estimates[: MAX_ORDER - 1]]
    return problem.space.inverse_noise_scaling(sigmas[-1], x) if problem.sigmas[-1] == 0 else x


def _log_snr(sigmas: Tensor) -> Tensor:
    """Returns lambda = -ln sigma, by way of alpha in the dtype of sigmas, as ComfyUI computes it.

    The detour costs float32 digits where sigma is small: it sees 0.00098 for the last level's 0.001.
    """
    log_alpha = 0.5 * precise.log(1 / (sigmas**2 + 1))
    return log_alpha - 0.5 * precise.log(1 - precise.exp(2 * log_alpha))


def _weights(r: Sequence[float], h: float, span: float) -> tuple[list[float], list[float]]:
    """Returns rho of predictor and corrector, arXiv:2302.04867, theorem 3.1: R(h) rho = phi(h) / B(h).

    r: where the older estimates lie, in steps of h from the newest (negative). The corrector has one more node, at 1.
    span: B(h).
    The lowest orders take 1/2, which satisfies their order condition for every h.
    """
    nodes = [*r, 1.0]
    order, u = len(nodes), -h
    targets, phi = [], math.expm1(u) / u
    for j in range(1, order + 1):
        phi = (phi - 1 / math.factorial(j)) / u
        targets.append(math.factorial(j) * phi * (h / span))
    matrix, target = np.vander(nodes, order, increasing=True).T, np.array(targets)
    predictor = [0.5] if order == 2 else np.linalg.solve(matrix[:-1, :-1], target[:-1]).tolist()
    corrector = [0.5] if order == 1 else np.linalg.solve(matrix, target).tolist()
    return predictor, corrector


def _combine(weights: Sequence[float], differences: Sequence[Tensor]) -> Tensor | int:
    return sum(weight * difference for weight, difference in zip(weights, differences, strict=True))

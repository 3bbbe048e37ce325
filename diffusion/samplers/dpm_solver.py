"""DPM-Solver of order 1 to 3, in steps of its own making: a schedule only says where to start and where to end.

Lu et al. 2022, arXiv:2206.00927. All is in lambda = -ln sigma, here called time, which has no end at the level 0: from a
schedule that ends there these samplers stop at its last level above, and x keeps that little noise. Results as in
ComfyUI 0.8.0 (behaviour), except that a schedule of one step to 0 reaches the estimate (there it stays noise).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from . import precise
from .ancestral import ancestral_levels
from .ode import euler, slope
from .problem import Answer, Problem, Query, Steps

HALF, FIRST_THIRD, SECOND_THIRD = 1 / 2, 1 / 3, 2 / 3  # of a step: where orders 2 and 3 ask
ARRIVED = 1e-5  # this near to the last time an adaptive run is done
MOST_REFUSED = 100  # steps in a row, each of another length; then none will do
MOST_TRIES = 10_000  # as many steps as any sampler may be asked for
_CURE = "give larger tolerances (rtol, atol), smaller coefficients, or a smaller accept_safety."
LEAST_ERROR = 1e-8  # added to an error, so that none of 0 makes an infinite step


def dpm_fast(problem: Problem) -> Steps:
    """As many queries as the schedule has steps, in steps of order 3, evenly long in lambda, and one or two lower ones."""
    ends = _ends(problem)
    if ends is None:
        return (yield from euler(problem))
    x, n = problem.x, len(problem.sigmas) - 1
    orders = [3] * (n // 3 - 1) + [2, 1] if n % 3 == 0 else [3] * (n // 3) + [n % 3]
    times = torch.linspace(ends[0].item(), ends[1].item(), len(orders) + 1)
    asked = 0
    for order, start, end in zip(orders, times, times[1:], strict=False):
        h = end - start
        eps = yield from _noise(x, start, asked)
        if order == 1:
            x = _first_order(x, eps, end, h)
        elif order == 2:
            eps_middle = yield from _noise(
                _first_order(x, eps, start + HALF * h, HALF * h), start + HALF * h, asked + 1
            )
            x = _second_order(x, eps, eps_middle, end, h, r=HALF)
        else:
            _, eps_late = yield from _two_thirds(x, eps, start, h, (asked + 1, asked + 2))
            x = _third_order(x, eps, eps_late, end, h)
        asked += order
    return x


def dpm_adaptive(
    problem: Problem,
    *,
    order: Literal[2, 3] = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps:
    """Steps as long as the difference between two orders allows; each costs `order` queries, and may have to be redone.

    The paper's adaptive DPM-Solver-23 and -12. rtol, atol: the difference that a step of the right length
    makes, relative to x and at least. h_init: the first step's length in lambda. pcoeff, icoeff, dcoeff: of the controller
    of lengths, Söderlind 2003, doi:10.1145/641876.641877. accept_safety: the least factor to the length with which a step
    counts. eta, s_noise: ancestral noise, none by default. Raises FloatingPointError where x is not finite any more, and where
    no step is short enough.
    """
    ends = _ends(problem)
    if ends is None:
        return (yield from euler(problem))
    time, last = ends
    x, x_low = problem.x, problem.x
    control = _StepLength.of(h_init, (pcoeff, icoeff, dcoeff), 1.5 if eta else order, accept_safety)
    while time < last - ARRIVED:
        step = _interval(problem, time, ends)
        target = torch.minimum(last, time + control.h)
        if not target > time:
            raise FloatingPointError(f"steps became too short to get anywhere; {_CURE}")
        end, up = _ancestral_end(time, target, last, eta)
        h = end - time
        eps = yield from _noise(x, time, step)
        if order == 2:
            eps_middle = yield from _noise(_first_order(x, eps, time + HALF * h, HALF * h), time + HALF * h, step)
            low, high = _first_order(x, eps, end, h), _second_order(x, eps, eps_middle, end, h, r=HALF)
        else:
            eps_early, eps_late = yield from _two_thirds(x, eps, time, h, (step, step))
            low = _second_order(x, eps, eps_early, end, h, r=FIRST_THIRD)
            high = _third_order(x, eps, eps_late, end, h)
        scale = torch.maximum(low.abs(), x_low.abs()).mul(rtol).clamp(min=atol)
        if control.accepts(((low - high) / scale).square().mean().sqrt().item()):
            time, x, x_low = target, high, low
            if eta > 0:
                x = x + problem.noise.normal() * s_noise * up
    return x


@dataclass(slots=True)
class _StepLength:
    """Chooses the lengths of steps by their errors: an error of 1 is as large as it should be.

    exponents: of the inverses of the last errors, newest first. h: the length of the next step.
    """

    h: float
    exponents: tuple[float, float, float]
    accept_safety: float
    inverses: tuple[float, float] | None = None
    refused: int = 0
    tries: int = 0

    @classmethod
    def of(cls, h: float, coefficients: tuple[float, float, float], order: float, accept_safety: float) -> _StepLength:
        p, i, d = coefficients
        return cls(h, ((p + i + d) / order, -(p + 2 * d) / order, d / order), accept_safety)

    def accepts(self, error: float) -> bool:
        """Says whether a step with this error counts, and sets the length of the next one."""
        if not math.isfinite(error):
            raise FloatingPointError(f"the error of a step is {error}: the latent is not finite any more.")
        inverse = 1 / (error + LEAST_ERROR)
        before, long_before = self.inverses or (inverse, inverse)
        try:
            factor = math.prod(v**e for v, e in zip((inverse, before, long_before), self.exponents, strict=True))
        except OverflowError:
            factor = math.inf
        factor = 1 + math.atan(factor - 1)  # changes of length stay moderate
        accepted = factor >= self.accept_safety
        self.refused = 0 if accepted else self.refused + 1
        self.tries += 1
        if self.refused > MOST_REFUSED or self.tries > MOST_TRIES:
            raise FloatingPointError(f"no end is in sight after steps of {self.tries} lengths; {_CURE}")
        self.inverses = (inverse, before) if accepted else (before, long_before)
        self.h *= factor
        return accepted


def _ends(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """The times of the first and the last level above 0; None where no step lies between two such levels."""
    levels = problem.sigmas[:-1] if problem.sigmas[-1] == 0 else problem.sigmas
    if len(levels) < 2:
        return None
    return precise.log(levels[0]).neg(), precise.log(levels[-1]).neg()


def _interval(problem: Problem, time: Tensor, ends: tuple[Tensor, Tensor]) -> int:
    """The number of the schedule's steps that would be as far on the way as this time is."""
    done = ((time - ends[0]) / (ends[1] - ends[0])).item()
    n = len(problem.sigmas) - 1
    return min(int(done * n), n - 1)


def _ancestral_end(time: Tensor, target: Tensor, last: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Returns the time to step to, and the std of the noise that brings x back to the target's level."""
    level = precise.exp(-target)
    if eta == 0:
        return target, torch.zeros_like(level)
    down, _ = ancestral_levels(precise.exp(-time), level, eta)
    end = torch.minimum(last, precise.log(down).neg())
    return end, precise.sqrt(level**2 - precise.exp(-end) ** 2)


def _noise(x: Tensor, time: Tensor, step: int) -> Generator[Query, Answer, Tensor]:
    """Asks for the noise in x at a time: the slope dx/dsigma."""
    sigma = precise.exp(-time)
    denoised, _ = yield Query(x, sigma, step)
    return slope(x, denoised, sigma)


def _two_thirds(
    x: Tensor, eps: Tensor, start: Tensor, h: Tensor, steps: tuple[int, int]
) -> Generator[Query, Answer, tuple[Tensor, Tensor]]:
    """Asks for the noise at one and at two thirds of a step. arXiv:2206.00927, algorithm 2."""
    early, late = start + FIRST_THIRD * h, start + SECOND_THIRD * h
    eps_early = yield from _noise(_first_order(x, eps, early, FIRST_THIRD * h), early, steps[0])
    x_late = _first_order(x, eps, late, SECOND_THIRD * h)
    bend = precise.expm1(SECOND_THIRD * h) / (SECOND_THIRD * h) - 1
    x_late = x_late - precise.exp(-late) * (SECOND_THIRD / FIRST_THIRD) * bend * (eps_early - eps)
    return eps_early, (yield from _noise(x_late, late, steps[1]))


def _first_order(x: Tensor, eps: Tensor, end: Tensor, h: Tensor) -> Tensor:
    return x - precise.exp(-end) * precise.expm1(h) * eps


def _second_order(x: Tensor, eps: Tensor, eps_r: Tensor, end: Tensor, h: Tensor, *, r: float) -> Tensor:
    return _first_order(x, eps, end, h) - precise.exp(-end) / (2 * r) * precise.expm1(h) * (eps_r - eps)


def _third_order(x: Tensor, eps: Tensor, eps_late: Tensor, end: Tensor, h: Tensor) -> Tensor:
    bend = precise.expm1(h) / h - 1
    return _first_order(x, eps, end, h) - precise.exp(-end) / SECOND_THIRD * bend * (eps_late - eps)

"""SEEDS: exponential solvers of the diffusion SDE with noise that fits their stages. Gonzalez et al. 2023, arXiv:2305.14267.

In lambda (`Path.log_snr`), with data prediction. `eta` scales the noise (0 gives the ODE), `s_noise` the std of each draw.
Results as in ComfyUI 0.8.0 (behaviour).
"""

from __future__ import annotations

from torch import Tensor

from ..names import SeedsSolver
from . import precise
from .problem import Problem, Query, Steps


def seeds_2(
    problem: Problem,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
    solver: SeedsSolver = "phi_1",
) -> Steps:
    """Second order, two queries a step, one for a step to 0; the second is the fraction `r` of the step on.

    solver: phi_1 mixes the two estimates, phi_2 integrates the line through them exactly.
    """
    problem = problem.off_unit_level()
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        to = _Step(problem, s, t, eta=eta, s_noise=s_noise)
        x_middle, middle = to.stage(x, r, (_whole(r * to.h), denoised))
        denoised_middle, _ = yield Query(x_middle, middle, step)
        whole = _whole(to.h)
        if solver == "phi_1":
            x, _ = to.stage(x, 1.0, (whole, denoised.lerp(denoised_middle, 1 / (2 * r))))
        else:
            share = _rising(to.h) / r
            x, _ = to.stage(x, 1.0, (whole - share, denoised), (share, denoised_middle))
    return x


def seeds_3(
    problem: Problem,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Steps:
    """Third order, three queries a step, one for a step to 0; they lie the fractions `r_1` and `r_2` of the step on."""
    problem = problem.off_unit_level()
    x = problem.x
    for step, s, t in problem.intervals():
        denoised, _ = yield Query(x, s, step)
        if t == 0:
            x = denoised
            continue
        to = _Step(problem, s, t, eta=eta, s_noise=s_noise)
        x_early, early = to.stage(x, r_1, (_whole(r_1 * to.h), denoised))
        denoised_early, _ = yield Query(x_early, early, step)
        share = r_2 / r_1 * _rising(r_2 * to.h)
        x_late, late = to.stage(x, r_2, (_whole(r_2 * to.h) - share, denoised), (share, denoised_early))
        denoised_late, _ = yield Query(x_late, late, step)
        share = _rising(to.h) / r_2
        x, _ = to.stage(x, 1.0, (_whole(to.h) - share, denoised), (share, denoised_late))
    return x


def exp_heun_2_x0(problem: Problem, *, eta: float = 0.0, s_noise: float = 1.0) -> Steps:
    """Heun's method as an exponential solver: `seeds_2` with its second query at the step's end; no noise by default."""
    return seeds_2(problem, eta=eta, s_noise=s_noise, r=1.0, solver="phi_2")


class _Step:
    """One step from level s to t, through stages at fractions of its length h in lambda.

    Its noise is that of one path: each stage's decays towards the next, which adds some of its own.
    """

    def __init__(self, problem: Problem, s: Tensor, t: Tensor, *, eta: float, s_noise: float) -> None:
        self._problem, self._s, self._t = problem, s, t
        self._lambda_s, self._lambda_t = problem.space.path.log_snr(s), problem.space.path.log_snr(t)
        self._decay = (self._lambda_t - self._lambda_s) * eta
        self._s_noise = s_noise if eta > 0 else 0.0
        self._noise: Tensor | None = None
        self._reached = 0.0
        self.h = (self._lambda_t - self._lambda_s) * (eta + 1)

    def stage(self, x: Tensor, r: float, *terms: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns x and the level at the fraction r of the step, from x at its start and weighted estimates."""
        log_snr = self._lambda_s.lerp(self._lambda_t, r)
        sigma = self._t if r == 1.0 else self._problem.space.path.sigma_at(log_snr)
        alpha = sigma * precise.exp(log_snr)
        x = sigma / self._s * precise.exp(-r * self._decay) * x
        for weight, denoised in terms:
            x = x + alpha * weight * denoised
        if self._s_noise > 0:
            x = x + self._noise_at(r) * sigma * self._s_noise
        return x, sigma

    def _noise_at(self, r: float) -> Tensor:
        further = (r - self._reached) * self._decay
        noise = precise.sqrt(-precise.expm1(-2 * further)) * self._problem.noise.normal()
        if self._noise is not None:
            noise = self._noise * precise.exp(-further) + noise
        self._noise, self._reached = noise, r
        return noise


def _whole(h: Tensor) -> Tensor:
    """The weight of an estimate that stays constant over the length h: the integral of e^(v - h), v from 0 to h."""
    return -precise.expm1(-h)


def _rising(h: Tensor) -> Tensor:
    """The weight of what an estimate gains over the length h, if it rises evenly: the integral of e^(v - h) v / h."""
    return (precise.expm1(-h) + h) / h

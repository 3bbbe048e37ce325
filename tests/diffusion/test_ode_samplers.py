"""The deterministic solvers against the exact case: for Gaussian data of unit std the denoiser is x / (1 + sigma^2) and
the ODE's solution x / sqrt(1 + sigma^2) is constant. Halving the steps must divide the error by 2^order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.drive import run_sampler
from latentgraph.diffusion.noise import NoiseSource
from latentgraph.diffusion.ode_samplers import dpm_2, dpmpp_2m, euler, heun, lms
from latentgraph.diffusion.problem import Problem, Steps
from latentgraph.diffusion.sampling_space import discrete_space
from latentgraph.diffusion.sde_samplers import dpmpp_2m_sde, dpmpp_sde, euler_ancestral
from latentgraph.diffusion.uni_pc import uni_pc

HIGH, LOW = 10.0, 0.1


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def error(start: Callable[[Problem], Steps], steps: int) -> float:
    sigmas = torch.logspace(math.log10(HIGH), math.log10(LOW), steps + 1, dtype=torch.float64)
    x = torch.full((1, 1, 1, 1), HIGH, dtype=torch.float64)
    result = run_sampler(start(Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, 0))), denoise)
    return abs(result.item() - HIGH * math.sqrt((1 + LOW**2) / (1 + HIGH**2)))


@pytest.mark.parametrize(
    ("start", "order"),
    [
        (euler, 1),
        (heun, 2),
        (dpm_2, 2),
        (dpmpp_2m, 2),
        (uni_pc, 2),  # its first and last steps are of lower order than 3
        (partial(lms, order=1), 1),
        (partial(lms, order=2), 2),
        (lms, 2.5),  # order 4 after first steps of order 1 to 3
        (partial(euler_ancestral, eta=0.0), 1),
        (partial(dpmpp_sde, eta=0.0), 2),
        (partial(dpmpp_2m_sde, eta=0.0), 2),
    ],
)
def test_the_error_falls_with_the_order_of_the_solver(start: Callable[[Problem], Steps], order: float) -> None:
    rate = math.log2(error(start, 80) / error(start, 160))
    assert rate > order - 0.1
    assert error(start, 160) < 0.01


def test_one_step_of_lms_is_eulers() -> None:
    assert error(lms, 1) == pytest.approx(error(euler, 1), rel=1e-12)


@pytest.mark.parametrize("start", [heun, dpm_2, dpmpp_2m, lms, uni_pc])
def test_a_higher_order_beats_euler_at_twenty_steps(start: Callable[[Problem], Steps]) -> None:
    assert error(start, 20) < error(euler, 20) / 5

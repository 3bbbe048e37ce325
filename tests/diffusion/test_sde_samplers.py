"""The samplers that add noise keep the distribution of x: from Gaussian data of unit std noised to one level they
must arrive at Gaussian data of unit std noised to another, for diffusion and for flow models.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.drive import run_sampler
from latentgraph.diffusion.noise import NoiseSource
from latentgraph.diffusion.problem import Problem, Steps
from latentgraph.diffusion.sampling_space import SamplingSpace, discrete_space, flow_space
from latentgraph.diffusion.sde_samplers import dpmpp_2m_sde, dpmpp_sde, euler_ancestral, lcm

COUNT = 128 * 128
STATISTICAL = 4 * math.sqrt(2 / COUNT)  # four standard deviations of the variance of COUNT normal numbers
DIFFUSION, FLOW = (discrete_space(), 10.0), (flow_space(), 0.98)


def run(start: Callable[[Problem], Steps], space: SamplingSpace, high: float, steps: int, *, exact: bool) -> float:
    """Returns the variance of x at the level 0.1, over the one that it should have.

    exact: the denoiser is the end of the ODE's path (a consistency function) instead of the mean over the data.
    """

    def alpha(sigma: Tensor) -> Tensor:
        return 1 - sigma if space.path.is_flow else torch.ones_like(sigma)

    def variance(sigma: Tensor) -> Tensor:
        return alpha(sigma) ** 2 + sigma**2

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x / variance(sigma).sqrt() if exact else x * alpha(sigma) / variance(sigma)

    top, bottom = space.path.log_snr(torch.tensor([high, 0.1]))
    sigmas = space.path.sigma_at(torch.linspace(top, bottom, steps + 1))
    x = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(3)) * variance(sigmas[0]).sqrt()
    result = run_sampler(start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1))), denoise)
    return (result.var() / variance(sigmas[-1])).item()


@pytest.mark.parametrize(("space", "high"), [DIFFUSION, FLOW], ids=["diffusion", "flow"])
@pytest.mark.parametrize(
    ("start", "steps", "discretisation"),
    [(euler_ancestral, 1000, 0.008), (dpmpp_sde, 32, 0.012), (dpmpp_2m_sde, 32, 0.012)],
)
def test_the_marginal_variance_is_kept(
    start: Callable[[Problem], Steps], steps: int, discretisation: float, space: SamplingSpace, high: float
) -> None:
    assert run(start, space, high, steps, exact=False) == pytest.approx(1.0, abs=STATISTICAL + discretisation)


@pytest.mark.parametrize(("space", "high"), [DIFFUSION, FLOW], ids=["diffusion", "flow"])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_consistency_sampling_keeps_the_variance_at_any_number_of_steps(
    steps: int, space: SamplingSpace, high: float
) -> None:
    assert run(lcm, space, high, steps, exact=True) == pytest.approx(1.0, abs=STATISTICAL)


@pytest.mark.parametrize("start", [dpmpp_sde, dpmpp_2m_sde])
def test_more_steps_refine_the_same_picture(start: Callable[[Problem], Steps]) -> None:
    """The Brownian path depends on the seed alone, so runs of 20 and 40 steps approximate one solution."""

    def picture(steps: int, seed: int) -> Tensor:
        sigmas = torch.logspace(1, -1, steps + 1)
        x = torch.ones(1, 1, 16, 16) * 10
        problem = Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, seed))
        return run_sampler(start(problem), lambda x, sigma: x / (1 + sigma**2))

    def correlation(a: Tensor, b: Tensor) -> float:
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

    assert correlation(picture(20, 1), picture(40, 1)) > 0.95
    assert abs(correlation(picture(20, 1), picture(20, 2))) < 0.3

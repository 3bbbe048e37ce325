"""The samplers that add noise keep the distribution of x: from Gaussian data of unit std noised to one level they
must arrive at Gaussian data of unit std noised to another, for diffusion and for flow models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from latentgraph.diffusion.levels.space import SamplingSpace, discrete_space, flow_space
from latentgraph.diffusion.samplers.ancestral import (
    ddpm,
    dpm_2_ancestral,
    dpmpp_2s_ancestral,
    euler_ancestral,
    lcm,
)
from latentgraph.diffusion.samplers.cfg_pp import euler_ancestral_cfg_pp, res_multistep_cfg_pp
from latentgraph.diffusion.samplers.dpm_solver import dpm_adaptive
from latentgraph.diffusion.samplers.drive import run_sampler, unguided
from latentgraph.diffusion.samplers.er_sde import er_sde
from latentgraph.diffusion.samplers.noise import NoiseSource
from latentgraph.diffusion.samplers.problem import Problem, Steps
from latentgraph.diffusion.samplers.res_multistep import res_multistep
from latentgraph.diffusion.samplers.sa_solver import sa_solver
from latentgraph.diffusion.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from latentgraph.diffusion.samplers.seeds import exp_heun_2_x0, seeds_2, seeds_3

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
    result = run_sampler(start(Problem(x, sigmas, space, NoiseSource(x, sigmas, 1))), unguided(denoise))
    return (result.var() / variance(sigmas[-1])).item()


SOLVERS: dict[str, tuple[Callable[[Problem], Steps], int, float]] = {  # steps, and what they leave of the error
    "euler_ancestral": (euler_ancestral, 1000, 0.008),
    "euler_ancestral_cfg_pp": (euler_ancestral_cfg_pp, 1000, 0.008),
    "dpm_2_ancestral": (dpm_2_ancestral, 64, 0.012),
    "dpmpp_2s_ancestral": (dpmpp_2s_ancestral, 64, 0.012),
    "dpmpp_sde": (dpmpp_sde, 32, 0.012),
    "dpmpp_2m_sde": (dpmpp_2m_sde, 32, 0.012),
    "dpmpp_2m_sde_heun": (partial(dpmpp_2m_sde, solver="heun"), 64, 0.012),
    "dpmpp_3m_sde": (dpmpp_3m_sde, 32, 0.012),
    "er_sde": (er_sde, 32, 0.012),
    "er_sde of reverse time": (partial(er_sde, solver="Reverse-time SDE"), 64, 0.012),
    "seeds_2": (seeds_2, 32, 0.012),
    "seeds_2 of phi_2": (partial(seeds_2, solver="phi_2"), 32, 0.012),
    "seeds_3": (seeds_3, 32, 0.012),
    "exp_heun_2_x0_sde": (partial(exp_heun_2_x0, eta=1.0), 32, 0.012),
    "sa_solver": (sa_solver, 32, 0.012),
    "sa_solver with noise all the way": (partial(sa_solver, window=(math.inf, 0.0)), 64, 0.012),
    "sa_solver_pece": (partial(sa_solver, pece=True), 32, 0.012),
}
"""For diffusion and for flow. The samplers of `DIFFUSION_SOLVERS` take a flow for a diffusion, as ComfyUI's do."""

DIFFUSION_SOLVERS: dict[str, tuple[Callable[[Problem], Steps], int, float]] = {
    "ddpm": (ddpm, 1000, 0.008),
    "res_multistep_ancestral": (partial(res_multistep, eta=1.0), 64, 0.012),
    "res_multistep_ancestral_cfg_pp": (partial(res_multistep_cfg_pp, eta=1.0), 64, 0.012),
    "dpm_adaptive": (partial(dpm_adaptive, eta=1.0, rtol=0.01, atol=0.002), 8, 0.012),
}
CASES = [
    *((name, *DIFFUSION) for name in SOLVERS | DIFFUSION_SOLVERS),
    *((name, *FLOW) for name in SOLVERS),
]


@pytest.mark.parametrize(
    ("name", "space", "high"),
    CASES,
    ids=[f"{name}-{'flow' if s.path.is_flow else 'diffusion'}" for name, s, _ in CASES],
)
def test_the_marginal_variance_is_kept(name: str, space: SamplingSpace, high: float) -> None:
    start, steps, discretisation = (SOLVERS | DIFFUSION_SOLVERS)[name]
    assert run(start, space, high, steps, exact=False) == pytest.approx(1.0, abs=STATISTICAL + discretisation)


@pytest.mark.parametrize(("space", "high"), [DIFFUSION, FLOW], ids=["diffusion", "flow"])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_consistency_sampling_keeps_the_variance_at_any_number_of_steps(
    steps: int, space: SamplingSpace, high: float
) -> None:
    assert run(lcm, space, high, steps, exact=True) == pytest.approx(1.0, abs=STATISTICAL)


@pytest.mark.parametrize("start", [dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde])
def test_more_steps_refine_the_same_picture(start: Callable[[Problem], Steps]) -> None:
    """The Brownian path depends on the seed alone, so runs of 20 and 40 steps approximate one solution."""

    def picture(steps: int, seed: int) -> Tensor:
        sigmas = torch.logspace(1, -1, steps + 1)
        x = torch.ones(1, 1, 16, 16) * 10
        problem = Problem(x, sigmas, discrete_space(), NoiseSource(x, sigmas, seed))
        return run_sampler(start(problem), unguided(lambda x, sigma: x / (1 + sigma**2)))

    def correlation(a: Tensor, b: Tensor) -> float:
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

    assert correlation(picture(20, 1), picture(40, 1)) > 0.95
    assert abs(correlation(picture(20, 1), picture(20, 2))) < 0.3
